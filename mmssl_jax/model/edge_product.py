"""Sparse rows times a wide kernel, at the cost of the edges that exist and not of their padding."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmssl_jax.graph.rows import BatchEdges

Carry = TypeVar("Carry")

# Edges handled at once: wide enough to fill a vector unit, small against a batch's edges.
CHUNK = 1024


@jax.custom_vjp
def _edge_products(
    weights: Float[Array, "S R"],
    edges: BatchEdges,
    kernel: Float[Array, "I H"],
    like: Float[Array, " B"],
) -> Float[Array, "B R H"]:
    return _forward(weights, edges, kernel, like)[0]


def edge_products(
    weights: Float[Array, "S R"], edges: BatchEdges, kernel: Float[Array, "I H"], n_rows: int
) -> Float[Array, "B R H"]:
    """y_br = sum over the edges (b, i) of row b of weight_r * kernel_i; masked edges add nothing.

    Real edges come before the padding, so forward and backward pass loop over just the chunks that
    hold any. Differentiable once, in `weights` and `kernel`.
    """
    return _edge_products(weights, edges, kernel, jnp.zeros(n_rows, kernel.dtype))


def _over_chunks(
    weights: Float[Array, "S R"],
    edges: BatchEdges,
    start: Carry,
    visit: Callable[[Carry, Int[Array, ""], Array, Array, Array], Carry],
) -> Carry:
    """Folds `visit(carry, first edge, rows, items, weights)` over the chunks with real edges."""
    size = min(CHUNK, max(1, edges.row.shape[0]))
    padding = (0, -edges.row.shape[0] % size)
    rows, items = jnp.pad(edges.row, padding), jnp.pad(edges.item, padding)
    weights = jnp.pad(jnp.where(edges.mask[:, None], weights, 0.0), (padding, (0, 0)))
    n_chunks = (jnp.sum(edges.mask) + size - 1) // size

    def one_chunk(index: Int[Array, ""], carry: Carry) -> Carry:
        first = index * size
        cut = [jax.lax.dynamic_slice_in_dim(x, first, size) for x in (rows, items, weights)]
        return visit(carry, first, *cut)

    return jax.lax.fori_loop(0, n_chunks, one_chunk, start)


def _forward(
    weights: Float[Array, "S R"],
    edges: BatchEdges,
    kernel: Float[Array, "I H"],
    like: Float[Array, " B"],
) -> tuple[Float[Array, "B R H"], tuple]:
    def visit(total: Array, _: Array, rows: Array, items: Array, w: Array) -> Array:
        return total.at[rows].add(w[:, :, None] * kernel[items][:, None, :])

    start = jnp.zeros((like.shape[0], weights.shape[1], kernel.shape[1]), kernel.dtype)
    return _over_chunks(weights, edges, start, visit), (weights, edges, kernel, like)


def _backward(residuals: tuple, gradient: Float[Array, "B R H"]) -> tuple:
    weights, edges, kernel, like = residuals

    def visit(
        carry: tuple[Array, Array], first: Array, rows: Array, items: Array, w: Array
    ) -> tuple[Array, Array]:
        of_weights, of_kernel = carry
        at_rows = gradient[rows]
        products = jnp.sum(at_rows * kernel[items][:, None, :], axis=2)
        of_weights = jax.lax.dynamic_update_slice_in_dim(of_weights, products, first, 0)
        return of_weights, of_kernel.at[items].add(jnp.sum(w[:, :, None] * at_rows, axis=1))

    size = min(CHUNK, max(1, weights.shape[0]))
    padded = weights.shape[0] + -weights.shape[0] % size
    start = jnp.zeros((padded, weights.shape[1]), weights.dtype), jnp.zeros_like(kernel)
    of_weights, of_kernel = _over_chunks(weights, edges, start, visit)
    of_weights = jnp.where(edges.mask[:, None], of_weights[: weights.shape[0]], 0.0)
    no_tangent = jax.tree.map(lambda leaf: np.zeros(leaf.shape, jax.dtypes.float0), edges)
    return of_weights, no_tangent, of_kernel, jnp.zeros_like(like)


_edge_products.defvjp(_forward, _backward)
