"""Ranking metrics of each user, and their sums over users, which add up over blocks and devices and
are divided once."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmssl_jax.config import METRIC_NAMES
from mmssl_jax.graph.rows import RowPairs

METRICS = METRIC_NAMES
USERS = "users"


def metric_names(ks: Sequence[int]) -> tuple[str, ...]:
    """Names of the sums that `metric_sums` returns: "recall@20" and so on, and "users" last."""
    return (*(f"{metric}@{k}" for metric in METRICS for k in ks), USERS)


def relevance_of(
    listed_scores: Float[Array, "B K"],
    listed_items: Int[Array, "B K"],
    held_out: RowPairs,
) -> Float[Array, "B K"]:
    """1 where a listed item is among its row's held-out items, else 0.

    The held-out pairs are without repetition. An entry of score -inf (an item left out of the list)
    is never a hit.
    """
    n_rows = listed_items.shape[0]
    found = places_of(listed_scores, listed_items, held_out)
    return jax.ops.segment_sum(found.astype(jnp.float32), held_out.rows, num_segments=n_rows)


def places_of(
    listed_scores: Float[Array, "B K"],
    listed_items: Int[Array, "B K"],
    held_out: RowPairs,
) -> Bool[Array, "H K"]:
    """Where in its row's list each held-out pair stands; nowhere for one that is not listed."""
    found = listed_items[held_out.rows] == held_out.items[:, None]
    return found & held_out.mask[:, None] & (listed_scores[held_out.rows] > -jnp.inf)


def user_metrics(
    relevance: Float[Array, "B K"], held_out_counts: Int[Array, " B"], ks: Sequence[int]
) -> dict[str, Float[Array, " B"]]:
    """Every metric at every k in `ks` for each user; 0 for a user with nothing held out.

    `relevance` marks the hits in lists ordered best first, of max(ks) items or, where the
    catalogue is smaller, of all of it. With n held-out items, and the hits rel_i at places
    i = 1, 2, ...:

        recall@k        hits in the first k / n
        precision@k     hits in the first k / k
        hit_ratio@k     1 if there is a hit in the first k
        ndcg@k          DCG / ideal: DCG = sum_{i <= k} rel_i / log2(i + 1), the ideal is the DCG
                        of a list with min(n, k) hits at its top
        release_ndcg@k  the ideal has min(hits in the first max(ks), k) hits at its top, as in the
                        authors' code: too high when held-out items are missing from the list
    """
    longest = min(max(ks), relevance.shape[1])  # no catalogue, and so no held-out part, is longer
    discounts = 1 / np.log2(np.arange(2, longest + 2))
    ideal = jnp.asarray(np.concatenate([[0.0], np.cumsum(discounts)]), jnp.float32)
    discount_row = jnp.asarray(discounts, jnp.float32)[None, :]

    relevance = relevance[:, :longest]
    counts = held_out_counts.astype(jnp.int32)
    found = relevance.sum(axis=1).astype(jnp.int32)

    per_user = {}
    for k in ks:
        first = relevance[:, :k]
        hits = first.sum(axis=1)
        dcg = (first * discount_row[:, : first.shape[1]]).sum(axis=1)
        per_user[f"recall@{k}"] = hits / jnp.maximum(counts, 1)
        per_user[f"precision@{k}"] = hits / k
        per_user[f"hit_ratio@{k}"] = (hits > 0).astype(jnp.float32)
        most = min(k, longest)
        # An ideal is 0, and then so is the DCG, or at least 1: the maximum only avoids 0 / 0.
        per_user[f"ndcg@{k}"] = dcg / jnp.maximum(ideal[jnp.minimum(counts, most)], 1.0)
        per_user[f"release_ndcg@{k}"] = dcg / jnp.maximum(ideal[jnp.minimum(found, most)], 1.0)
    return per_user


def metric_sums(
    relevance: Float[Array, "B K"],
    held_out_counts: Int[Array, " B"],
    user_mask: Bool[Array, " B"],
    ks: Sequence[int],
) -> dict[str, Float[Array, ""]]:
    """Sums of `user_metrics` over users, and "users", the number of users summed.

    Users that are masked or have nothing held out count for nothing.
    """
    per_user = user_metrics(relevance, held_out_counts, ks)
    weight = (user_mask & (held_out_counts > 0)).astype(jnp.float32)
    sums = {name: (value * weight).sum() for name, value in per_user.items()}
    return {**sums, USERS: weight.sum()}


def means(sums: Mapping[str, float | Float[Array, ""]]) -> dict[str, float]:
    """The metrics themselves: every sum divided by "users", and "users" itself.

    Raises ValueError if no user was counted.
    """
    users = float(sums[USERS])
    if not users > 0:
        raise ValueError("no user was counted, so there is no metric to average")
    averages = {name: float(value) / users for name, value in sums.items() if name != USERS}
    return {**averages, USERS: users}
