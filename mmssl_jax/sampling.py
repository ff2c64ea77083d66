"""Training batches, drawn on the device: users, one positive and one negative each."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from mmssl_jax.config import SamplingConfig
from mmssl_jax.graph.rows import InteractionRows
from mmssl_jax.parallel import share_of


class Batch(NamedTuple):
    """Triples (user, positive, negative); a negative is never a training positive."""

    users: Int[Array, " B"]
    positives: Int[Array, " B"]
    negatives: Int[Array, " B"]


def steps_per_epoch(n_train: int, batch_size: int) -> int:
    """Steps of one epoch: training interactions // batch size + 1."""
    return n_train // batch_size + 1


def sample_users(key: Key[Array, ""], rows: InteractionRows, batch_size: int) -> Int[Array, " B"]:
    """Users that can be sampled, uniformly and without replacement while there are enough."""
    n_samplers = rows.samplers.shape[0]
    chosen = jax.random.choice(key, n_samplers, (batch_size,), replace=batch_size > n_samplers)
    return rows.samplers[chosen]


def sample_positives(
    key: Key[Array, ""], rows: InteractionRows, users: Int[Array, " B"]
) -> Int[Array, " B"]:
    """One training item per user, uniformly from the user's own."""
    degree = rows.start[users + 1] - rows.start[users]
    place = jax.random.randint(key, users.shape, 0, degree)
    return rows.items[rows.start[users] + place]


Among = Literal["all", "trained"]


def sample_negatives(
    key: Key[Array, ""],
    rows: InteractionRows,
    users: Int[Array, " B"],
    n_items: int,
    among: Among = "all",
) -> Int[Array, " B"]:
    """One item per user, uniformly from those it has no training interaction with: among all items,
    or among those that somebody has in training.

    Exact and without rejection: draw a rank r among the user's I - d other items; with the user's
    ascending items p_0 < p_1 < .., the item of that rank is r + j, where j counts the p_j with
    p_j - j <= r. That difference never decreases, so j is found by bisection. Among the trained
    items the same is done with places among them in place of items.
    """
    ascending = rows.items if among == "all" else rows.place
    n_candidates = n_items if among == "all" else rows.trained.shape[0]
    first, end = rows.start[users], rows.start[users + 1]
    rank = jax.random.randint(key, users.shape, 0, n_candidates - (end - first))
    last = ascending.shape[0] - 1

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        passed = ascending[jnp.minimum(middle, last)] - (middle - first) <= rank
        is_open = low < high
        low_next = jnp.where(is_open & passed, middle + 1, low)
        return low_next, jnp.where(is_open & ~passed, middle, high)

    # A loop and not its unrolled body, which some versions of XLA take minutes to fuse.
    n_halvings = math.ceil(math.log2(n_items + 1))
    low, _ = jax.lax.fori_loop(0, n_halvings, halve, (first, end))
    found = rank + (low - first)
    return found if among == "all" else rows.trained[found]


def distinct_places(key: Key[Array, ""], n: int, count: int) -> Int[Array, " C"]:
    """`count` <= n different numbers below n, each as likely as any other.

    One comes from each of `count` equal shares of them, and all are then shifted by one random
    number. Numbers next to each other are seldom drawn together, and nothing of length n is sorted,
    which on a CPU takes longer than a small model's step.
    """
    shift_key, place_key = jax.random.split(key)
    share, index = jnp.arange(count + 1, dtype=jnp.int32), n // count
    first = share * index + share * (n % count) // count
    place = jax.random.randint(place_key, (count,), first[:-1], first[1:])
    shift = jax.random.randint(shift_key, (), 0, n)
    return jnp.where(place < n - shift, place + shift, place - (n - shift))


def sample_interactions(
    key: Key[Array, ""], rows: InteractionRows, batch_size: int
) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """Users and positives of training interactions, uniformly, without replacement if enough.

    Interactions lie by user, so that a batch has its even share of every active user's.
    """
    n_edges = rows.items.shape[0]
    if batch_size > n_edges:
        chosen = jax.random.randint(key, (batch_size,), 0, n_edges)
    else:
        chosen = distinct_places(key, n_edges, batch_size)
    return rows.users[chosen], rows.items[chosen]


def sample_batch(
    key: Key[Array, ""],
    rows: InteractionRows,
    batch_size: int,
    n_items: int,
    by: Literal["user", "interaction"],
    among: Among = "all",
) -> Batch:
    """A batch of triples.

    by: whether users or interactions are drawn uniformly. among: what negatives are drawn from.
    """
    user_key, positive_key, negative_key = jax.random.split(key, 3)
    if by == "interaction":
        users, positives = sample_interactions(user_key, rows, batch_size)
    else:
        users = sample_users(user_key, rows, batch_size)
        positives = sample_positives(positive_key, rows, users)
    return Batch(users, positives, sample_negatives(negative_key, rows, users, n_items, among))


def sample_share(
    config: SamplingConfig,
    key: Key[Array, ""],
    rows: InteractionRows,
    n_items: int,
    axis: str | None,
) -> Batch:
    """This device's share of a batch of triples, which every device draws as a whole."""
    whole = sample_batch(key, rows, config.batch_size, n_items, config.by, config.negatives)
    return share_of(whole, axis)
