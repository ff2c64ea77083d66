"""What the critic takes of its first kernel W `[I, H]`: products whose other side has no items.

They have one gradient, since W and its gradient are the largest arrays there are: it is made in one
pass over blocks of items, and what the edges add is added in place.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmssl_jax.blocks import Block, fold_blocks, zeros_of_its_own
from mmssl_jax.graph.rows import BatchEdges
from mmssl_jax.precision import Precision, matmul

Carry = TypeVar("Carry")

# Edges handled at once: wide enough to fill a vector unit, small against a batch's edges.
EDGES_AT_ONCE = 1024
# Items handled at once: most catalogues are one block; work arrays of larger ones stay small.
ITEMS_AT_ONCE = 2**14
# Columns from which half a symmetric product costs less than the whole one.
HALVED_FROM = 512


class KernelProducts(NamedTuple):
    """Products of a kernel W.

    factors: V^T W, V the item vectors of all factors side by side.
    at_edges: per row and column of weights, the sum over the row's edges of weight times W_i.
    gram: W^T W, or None where nobody asks. A cotangent of it must be symmetric: adding its
      transpose to it would cost more than the product that it goes into.
    """

    factors: Float[Array, "F H"]
    at_edges: Float[Array, "B R H"]
    gram: Float[Array, "H H"] | None


def kernel_products(
    kernel: Float[Array, "I H"],
    items: Sequence[Float[Array, "I _D"]],
    weights: Float[Array, "S R"],
    edges: BatchEdges,
    n_rows: int,
    with_gram: bool = False,
    precision: Precision = "float32",
) -> KernelProducts:
    """All of them, in O(I F H + R S H + I H^2). Differentiable once: in kernel, items, weights.

    Args:
      items: item vectors of any widths, F in all.
      weights: columns of weights at the batch's edges; those of masked edges are not read.
      n_rows: rows of the batch.
      with_gram: whether W^T W is wanted.
    """
    static = Static(n_rows, with_gram, precision)
    return KernelProducts(*_products(static, kernel, tuple(items), weights, edges))


def symmetric_product(
    left: Float[Array, "N H"], right: Float[Array, "N H"], precision: Precision = "float32"
) -> Float[Array, "H H"]:
    """L^T R where it is known to be symmetric: what lies below the diagonal is not multiplied.

    By halves of the columns, down to widths at which products of more columns are no faster.
    """
    width = left.shape[1]
    if width < HALVED_FROM:
        return matmul(left.T, right, precision)
    half = width // 2
    first, second = slice(None, half), slice(half, None)
    across = matmul(left[:, first].T, right[:, second], precision)
    return jnp.block(
        [
            [symmetric_product(left[:, first], right[:, first], precision), across],
            [across.T, symmetric_product(left[:, second], right[:, second], precision)],
        ]
    )


class Static(NamedTuple):
    """What is no array."""

    n_rows: int
    with_gram: bool
    precision: Precision


Factors = tuple[Array, ...]
Products = tuple[Float[Array, "F H"], Float[Array, "B R H"], Float[Array, "H H"] | None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _products(
    static: Static,
    kernel: Float[Array, "I H"],
    items: Factors,
    weights: Float[Array, "S R"],
    edges: BatchEdges,
) -> Products:
    return _forward(static, kernel, items, weights, edges)[0]


def _forward(
    static: Static,
    kernel: Float[Array, "I H"],
    items: Factors,
    weights: Float[Array, "S R"],
    edges: BatchEdges,
) -> tuple[Products, tuple]:
    (n_rows, with_gram, precision), width = static, kernel.shape[1]
    n_factors = sum(vectors.shape[1] for vectors in items)

    def add_items(sums: tuple, block: Block) -> tuple:
        (of_factors, gram), cut = sums, block.cut(kernel)
        cut = block.only_new(cut, 0.0)
        if items:
            of_factors = of_factors + matmul(_side_by_side(items, block).T, cut, precision)
        if with_gram:
            gram = gram + symmetric_product(cut, cut, precision)
        return of_factors, gram

    zeros = (
        jnp.zeros((n_factors, width), kernel.dtype),
        jnp.zeros((width, width), kernel.dtype) if with_gram else None,
    )
    of_factors, gram = fold_blocks(kernel.shape[0], ITEMS_AT_ONCE, zeros, add_items)

    def add_edges(total: Array, _: Array, rows: Array, item_ids: Array, w: Array) -> Array:
        return total.at[rows].add(w[:, :, None] * kernel[item_ids][:, None, :])

    at_edges = jnp.zeros((n_rows, weights.shape[1], width), kernel.dtype)
    at_edges = _over_edges(weights, edges, at_edges, add_edges)
    return (of_factors, at_edges, gram), (kernel, items, weights, edges)


def _backward(static: Static, residuals: tuple, cotangents: Products) -> tuple:
    kernel, items, weights, edges = residuals
    (_, with_gram, precision), (of_factors, at_edges, of_gram) = static, cotangents

    def kernel_rows(gradient: Array, block: Block) -> Array:
        rows = jnp.zeros((), kernel.dtype)
        if items:
            rows = rows + matmul(_side_by_side(items, block), of_factors, precision)
        if of_gram is not None:
            rows = rows + matmul(block.cut(kernel), 2 * of_gram, precision)
        return block.put(gradient, rows)

    def item_rows(gradients: Factors, block: Block) -> Factors:
        rows = matmul(block.cut(kernel), of_factors.T, precision)
        ends = np.cumsum([x.shape[1] for x in items])[:-1]
        return block.put(gradients, tuple(jnp.split(rows, ends, axis=1)))

    of_kernel, of_items = (
        jax.tree.map(lambda x: zeros_of_its_own(x.shape, x.dtype, x), tree)
        for tree in (kernel, items)
    )
    if items or with_gram:
        of_kernel = fold_blocks(kernel.shape[0], ITEMS_AT_ONCE, of_kernel, kernel_rows)
    if items:
        of_items = fold_blocks(kernel.shape[0], ITEMS_AT_ONCE, of_items, item_rows)

    def add_edges(
        carry: tuple[Array, Array], first: Array, rows: Array, item_ids: Array, w: Array
    ) -> tuple[Array, Array]:
        of_weights, of_kernel = carry
        at_rows = at_edges[rows]
        # As a product: XLA's CPU backend may be slow in sums over the last axis of such arrays.
        products = jnp.einsum("srh,sh->sr", at_rows, kernel[item_ids])
        of_weights = jax.lax.dynamic_update_slice_in_dim(of_weights, products, first, 0)
        return of_weights, of_kernel.at[item_ids].add(jnp.einsum("sr,srh->sh", w, at_rows))

    padded = weights.shape[0] + _padding(weights.shape[0])
    start = jnp.zeros((padded, weights.shape[1]), weights.dtype), of_kernel
    of_weights, of_kernel = _over_edges(weights, edges, start, add_edges)
    of_weights = jnp.where(edges.mask[:, None], of_weights[: weights.shape[0]], 0.0)
    no_tangent = jax.tree.map(lambda leaf: np.zeros(leaf.shape, jax.dtypes.float0), edges)
    return of_kernel, of_items, of_weights, no_tangent


_products.defvjp(_forward, _backward)


def _side_by_side(items: Factors, block: Block) -> Float[Array, "N F"]:
    return jnp.concatenate(block.cut(items), axis=1)


def _padding(n_edges: int) -> int:
    """Places that fill the last chunk of edges."""
    return -n_edges % min(EDGES_AT_ONCE, max(1, n_edges))


def _over_edges(
    weights: Float[Array, "S R"],
    edges: BatchEdges,
    start: Carry,
    visit: Callable[[Carry, Int[Array, ""], Array, Array, Array], Carry],
) -> Carry:
    """Folds `visit(carry, first edge, rows, items, weights)` over the chunks with real edges.

    Real edges come before the padding, so the chunks after the last real edge cost nothing.
    """
    if not weights.shape[1]:
        return start
    size = min(EDGES_AT_ONCE, max(1, edges.row.shape[0]))
    padding = (0, _padding(edges.row.shape[0]))
    rows, items = jnp.pad(edges.row, padding), jnp.pad(edges.item, padding)
    weights = jnp.pad(jnp.where(edges.mask[:, None], weights, 0.0), (padding, (0, 0)))
    n_chunks = (jnp.sum(edges.mask) + size - 1) // size

    def one_chunk(index: Int[Array, ""], carry: Carry) -> Carry:
        first = index * size
        cut = [jax.lax.dynamic_slice_in_dim(x, first, size) for x in (rows, items, weights)]
        return visit(carry, first, *cut)

    return jax.lax.fori_loop(0, n_chunks, one_chunk, start)
