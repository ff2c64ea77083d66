"""What the critic takes of its first kernel W `[I, H]`: products whose other side has no items.

They have one gradient, since W and its gradient are the largest arrays there are: it is made in one
pass over blocks of items, and what the edges add is added in place.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmssl_jax.blocks import Block, fold_blocks, zeros_of_its_own
from mmssl_jax.graph.rows import BatchEdges
from mmssl_jax.methods.mmssl.fast.edge_chunks import EdgeChunk, fold_edges, without_tangent
from mmssl_jax.precision import Precision, matmul

# Items handled at once: most catalogues are one block; work arrays of larger ones stay small.
ITEMS_AT_ONCE = 2**14


class KernelProducts(NamedTuple):
    """Products of a kernel W.

    factors: V^T W, V the item vectors of all factors side by side.
    at_edges: for each of the weights, per row the sum over the row's edges of weight times W_i.
    gram: W^T W, or None where nobody asks. A cotangent of it must be symmetric: adding its
      transpose to it would cost more than the product that it goes into.
    """

    factors: Float[Array, "F H"]
    at_edges: tuple[Float[Array, "B H"], ...]
    gram: Float[Array, "H H"] | None

    @property
    def width(self) -> int:
        """H."""
        return self.factors.shape[1]


def kernel_products(
    kernel: Float[Array, "I H"],
    items: Sequence[Float[Array, "I _D"]],
    weights: Sequence[Float[Array, " S"]],
    edges: BatchEdges,
    with_gram: bool = False,
    precision: Precision = "float32",
) -> KernelProducts:
    """All of them, in O(I F H + R S H + I H^2), R the number of weights of an edge.

    Differentiable once: in kernel, items, weights.

    Args:
      items: item vectors of any widths, F in all.
      weights: of the batch's edges, one array for each sum; those of masked edges are not read.
      with_gram: whether W^T W is wanted.
    """
    static = Static(with_gram, precision)
    return KernelProducts(*_products(static, kernel, tuple(items), tuple(weights), edges))


class Static(NamedTuple):
    """What is no array."""

    with_gram: bool
    precision: Precision


Arrays = tuple[Array, ...]
Products = tuple[Float[Array, "F H"], Arrays, Float[Array, "H H"] | None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _products(
    static: Static,
    kernel: Float[Array, "I H"],
    items: Arrays,
    weights: Arrays,
    edges: BatchEdges,
) -> Products:
    return _forward(static, kernel, items, weights, edges)[0]


def _forward(
    static: Static,
    kernel: Float[Array, "I H"],
    items: Arrays,
    weights: Arrays,
    edges: BatchEdges,
) -> tuple[Products, tuple]:
    (with_gram, precision), width = static, kernel.shape[1]
    n_factors = sum(vectors.shape[1] for vectors in items)

    def add_items(sums: tuple, block: Block) -> tuple:
        (of_factors, gram), cut = sums, block.cut(kernel)
        cut = block.only_new(cut, 0.0)
        if items:
            of_factors = of_factors + matmul(_side_by_side(items, block).T, cut, precision)
        if with_gram:
            gram = gram + matmul(cut.T, cut, precision)
        return of_factors, gram

    zeros = (
        jnp.zeros((n_factors, width), kernel.dtype),
        jnp.zeros((width, width), kernel.dtype) if with_gram else None,
    )
    of_factors, gram = fold_blocks(kernel.shape[0], ITEMS_AT_ONCE, zeros, add_items)

    def add_edges(totals: Arrays, chunk: EdgeChunk) -> Arrays:
        found = kernel[chunk.item]
        return tuple(
            total.at[chunk.row].add(chunk.cut(w)[:, None] * found)
            for total, w in zip(totals, weights, strict=True)
        )

    nothing = tuple(jnp.zeros((edges.n_rows, width), kernel.dtype) for _ in weights)
    at_edges = fold_edges(edges, width, nothing, add_edges) if weights else ()
    return (of_factors, at_edges, gram), (kernel, items, weights, edges)


def _backward(static: Static, residuals: tuple, cotangents: Products) -> tuple:
    kernel, items, weights, edges = residuals
    (with_gram, precision), (of_factors, at_edges, of_gram) = static, cotangents

    def kernel_rows(gradient: Array, block: Block) -> Array:
        rows = jnp.zeros((), kernel.dtype)
        if items:
            rows = rows + matmul(_side_by_side(items, block), of_factors, precision)
        if of_gram is not None:
            rows = rows + matmul(block.cut(kernel), 2 * of_gram, precision)
        return block.put(gradient, rows)

    def item_rows(gradients: Arrays, block: Block) -> Arrays:
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

    def add_edges(carry: tuple[Arrays, Array], chunk: EdgeChunk) -> tuple[Arrays, Array]:
        of_weights, of_kernel = carry
        at_rows, found = [cotangent[chunk.row] for cotangent in at_edges], kernel[chunk.item]
        of_weights = tuple(
            # As a product: XLA's CPU backend may be slow in sums over the last axis of such arrays.
            chunk.put(gradient, jnp.einsum("sh,sh->s", rows, found))
            for gradient, rows in zip(of_weights, at_rows, strict=True)
        )
        terms = [chunk.cut(w)[:, None] * rows for w, rows in zip(weights, at_rows, strict=True)]
        return of_weights, of_kernel.at[chunk.item].add(functools.reduce(jnp.add, terms))

    of_weights = tuple(map(jnp.zeros_like, weights))
    if weights:
        start = of_weights, of_kernel
        of_weights, of_kernel = fold_edges(edges, kernel.shape[1], start, add_edges)
    of_weights = tuple(jnp.where(edges.mask, gradient, 0.0) for gradient in of_weights)
    return of_kernel, of_items, of_weights, without_tangent(edges)


_products.defvjp(_forward, _backward)


def _side_by_side(items: Arrays, block: Block) -> Float[Array, "N F"]:
    return jnp.concatenate(block.cut(items), axis=1)
