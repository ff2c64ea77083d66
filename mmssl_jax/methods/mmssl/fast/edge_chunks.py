"""Sums over the edges of a batch, in chunks that end with the last real edge.

The length of a batch's edges is a bound for any batch, several times the edges of most batches.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmssl_jax.blocks import vectors_at_once
from mmssl_jax.graph.rows import BatchEdges

Carry = TypeVar("Carry")


class EdgeChunk(NamedTuple):
    """Edges `first` and following. `counts` tells the real ones that are in no chunk before."""

    first: Int[Array, ""]
    row: Int[Array, " C"]
    item: Int[Array, " C"]
    counts: Bool[Array, " C"]

    def cut(self, values: Float[Array, " S"]) -> Float[Array, " C"]:
        """The chunk's values, 0 at edges that do not count."""
        cut = jax.lax.dynamic_slice_in_dim(values, self.first, self.row.shape[0])
        return jnp.where(self.counts, cut, 0.0)

    def put(self, values: Float[Array, " S"], chunk: Float[Array, " C"]) -> Float[Array, " S"]:
        """The values with these in the chunk's place, those of edges of an earlier chunk too."""
        return jax.lax.dynamic_update_slice_in_dim(values, chunk, self.first, 0)


def fold_edges(
    edges: BatchEdges, width: int, start: Carry, visit: Callable[[Carry, EdgeChunk], Carry]
) -> Carry:
    """Folds `visit(carry, chunk)` over chunks of edges with vectors of `width` entries."""
    length = edges.row.shape[0]
    if not length:
        return start
    size = min(vectors_at_once(width), length)
    # Real edges come before the padding.
    n_chunks = (jnp.sum(edges.mask) + size - 1) // size

    def one_chunk(index: Int[Array, ""], carry: Carry) -> Carry:
        first = jnp.minimum(index * size, length - size)
        row, item, real = (
            jax.lax.dynamic_slice_in_dim(x, first, size)
            for x in (edges.row, edges.item, edges.mask)
        )
        is_new = first + jnp.arange(size) >= index * size
        return visit(carry, EdgeChunk(first, row, item, real & is_new))

    return jax.lax.fori_loop(0, n_chunks, one_chunk, start)


@jax.custom_vjp
def edge_scores(
    users: Float[Array, "B D"], items: Float[Array, "I D"], edges: BatchEdges
) -> Float[Array, " S"]:
    """s = e_row . v_item of each edge, 0 at the padding."""

    def score(scores: Float[Array, " S"], chunk: EdgeChunk) -> Float[Array, " S"]:
        return chunk.put(scores, jnp.einsum("sd,sd->s", users[chunk.row], items[chunk.item]))

    scores = fold_edges(edges, users.shape[1], jnp.zeros(edges.row.shape, users.dtype), score)
    return jnp.where(edges.mask, scores, 0.0)


def _edge_scores_forward(
    users: Float[Array, "B D"], items: Float[Array, "I D"], edges: BatchEdges
) -> tuple[Float[Array, " S"], tuple]:
    return edge_scores(users, items, edges), (users, items, edges)


def _edge_scores_backward(residuals: tuple, cotangent: Float[Array, " S"]) -> tuple:
    users, items, edges = residuals

    def add_edges(gradients: tuple[Array, Array], chunk: EdgeChunk) -> tuple[Array, Array]:
        of_users, of_items = gradients
        weights = chunk.cut(cotangent)[:, None]
        return (
            of_users.at[chunk.row].add(weights * items[chunk.item]),
            of_items.at[chunk.item].add(weights * users[chunk.row]),
        )

    zeros = jnp.zeros_like(users), jnp.zeros_like(items)
    gradients = fold_edges(edges, users.shape[1], zeros, add_edges)
    return *gradients, without_tangent(edges)


edge_scores.defvjp(_edge_scores_forward, _edge_scores_backward)


def without_tangent(edges: BatchEdges) -> BatchEdges:
    """The gradient of edges, which have none."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, jax.dtypes.float0), edges)
