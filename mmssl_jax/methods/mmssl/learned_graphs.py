"""Modality-aware structure learning: similarity rows -> top-k -> a user-item graph per modality."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmssl_jax.graph.bipartite import BipartiteGraph, Ends, bipartite_graph
from mmssl_jax.graph.rows import BatchEdges, InteractionRows, batch_edges
from mmssl_jax.graph.topk import top_k_in_blocks
from mmssl_jax.nodes import Nodes, axis_of
from mmssl_jax.precision import Precision


class EdgeList(NamedTuple):
    """A fixed number of user-item pairs, of which the masked ones are not edges."""

    users: Int[Array, " L"]
    items: Int[Array, " L"]
    mask: Bool[Array, " L"]


def empty_edges(length: int) -> EdgeList:
    """No edges, in `length` places."""
    nodes = jnp.zeros(length, jnp.int32)
    return EdgeList(nodes, nodes, jnp.zeros(length, bool))


def edges_per_user(k: int, k_rate: float | None, n_items: int) -> int:
    """The number of learned edges per user: k, or int(k_rate * n_items); at most n_items."""
    return min(n_items, k if k_rate is None else int(n_items * k_rate))


def top_k_items(
    users: Float[Array, "B D"],
    items: Float[Array, "I D"],
    observed: BatchEdges | None,
    k: int,
    block_items: int,
    precision: Precision = "float32",
) -> Int[Array, "B K"]:
    """Each user's k items of the highest score e_u . v_i; `observed` pairs, if given, score 0."""

    def zero_observed(scores: Float[Array, "B N"], first: Int[Array, ""]) -> Float[Array, "B N"]:
        if observed is None:
            return scores
        column = observed.item - first
        # Indices from the end would wrap around; those past it are dropped.
        inside = observed.mask & (column >= 0)
        column = jnp.where(inside, column, scores.shape[1])
        return scores.at[observed.row, column].set(0.0, mode="drop")

    return top_k_in_blocks(users, items, k, block_items, zero_observed, precision)[1]


class RebuildBlocks(NamedTuple):
    """How much of a rebuild is done at once: users, items, and a bound of the interactions of a
    block of users."""

    users: int
    items: int
    edges: int


class Observed(NamedTuple):
    """Training interactions of users whose numbers may differ from their rows."""

    rows: InteractionRows
    numbers: Int[Array, " U"]


def learned_edges_of_all(
    users: Float[Array, "U D"],
    items: Float[Array, "I D"],
    observed: Observed | None,
    k: int,
    blocks: RebuildBlocks,
    precision: Precision = "float32",
) -> EdgeList:
    """Top-k edges of every user, in blocks of users and items: no users x items array exists.

    Args:
      observed: training interactions whose pairs score 0; None scores all pairs alike.
    A user with a zero vector has no similarity to anything, and gets no edge.
    """
    n_users = users.shape[0]
    n_blocks = -(-n_users // min(blocks.users, n_users))
    block = -(-n_users // n_blocks)  # equal ones, so that little of the last is padding
    ids = jnp.minimum(jnp.arange(n_blocks * block, dtype=jnp.int32), n_users - 1)

    def rank_block(block_ids: Int[Array, " N"]) -> Int[Array, "N K"]:
        pairs = None
        if observed is not None:
            pairs = batch_edges(observed.rows, observed.numbers[block_ids], blocks.edges)
        return top_k_items(users[block_ids], items, pairs, k, blocks.items, precision)

    top = jax.lax.map(rank_block, ids.reshape(n_blocks, block)).reshape(-1)[: n_users * k]
    known = jnp.any(users != 0, axis=1)
    return EdgeList(
        users=jnp.repeat(jnp.arange(n_users, dtype=jnp.int32), k),
        items=top,
        mask=jnp.repeat(known, k),
    )


def learned_edges_of_batch(
    batch_users: Int[Array, " B"], top: Int[Array, "B K"], edge_users: Literal["own", "tiled"]
) -> EdgeList:
    """The batch's top-k pairs as edges.

    own: item j of row u belongs to user u. tiled: the users are repeated as a whole (u1 u2 .. u1
    u2 ..) against row-major items, as in the release, which is right only for k = 1.
    """
    n_users, k = top.shape
    own = edge_users == "own"
    users = jnp.repeat(batch_users, k) if own else jnp.tile(batch_users, k)
    return EdgeList(users, top.reshape(-1), jnp.ones(n_users * k, bool))


def append_edges(pending: EdgeList, new: EdgeList) -> EdgeList:
    """Drops the oldest places of `pending` and adds `new` behind; the length stays."""
    kept = pending.users.shape[0] - new.users.shape[0]
    return jax.tree.map(
        lambda old, added: jnp.concatenate([old[old.shape[0] - kept :], added]), pending, new
    )


def learned_graph(
    edges: EdgeList, n_users: int, n_items: int, nodes: Nodes | None = None
) -> BipartiteGraph:
    """The propagation graph of learned edges, with weights 1/sqrt(d_r).

    Where rows are spread, users are those of this device, with all their edges, and items are all,
    padding included, with the edges that these users have to them.
    """
    users, items = Ends(edges.users, n_users), Ends(edges.items, n_items, axis_of(nodes))
    return bipartite_graph(users, items, edges.mask, "receiver")


def pad_edges(edges: EdgeList, length: int) -> EdgeList:
    """Lengthens an edge list with masked places."""
    more = length - edges.users.shape[0]
    return jax.tree.map(lambda leaf: jnp.pad(leaf, (0, more)), edges)
