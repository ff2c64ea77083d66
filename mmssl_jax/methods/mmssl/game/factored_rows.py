"""Rows over all items as what they are made of, multiplied by a kernel without being formed."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmssl_jax.graph.rows import BatchEdges, edges_of_own_items
from mmssl_jax.methods.mmssl.fast.kernel_products import KernelProducts, kernel_products
from mmssl_jax.nodes import Nodes
from mmssl_jax.parallel import all_gather, psum, psum_scatter
from mmssl_jax.precision import Precision, matmul

Factor = tuple[Float[Array, "B _D"], Float[Array, "I _D"]]


class FactoredRows(NamedTuple):
    """Rows X `[B, I]` = sum over factors (users, items) of users items^T + the weights at the
    batch's edges + Y; None is zero.

    Y is known as its product with the kernel alone: `projected` = Y W.
    """

    edges: BatchEdges
    factors: tuple[Factor, ...] = ()
    edge_weights: Float[Array, " S"] | None = None
    projected: Float[Array, "B H"] | None = None

    def scaled(self, factor: Float[Array, " B"]) -> "FactoredRows":
        """The rows, each times its factor."""
        by_edge = None if self.edge_weights is None else self.edge_weights * factor[self.edges.row]
        projected = None if self.projected is None else self.projected * factor[:, None]
        factors = tuple((users * factor[:, None], items) for users, items in self.factors)
        return FactoredRows(self.edges, factors, by_edge, projected)

    def plus(self, other: "FactoredRows") -> "FactoredRows":
        """The sum of the rows, which are of the same batch."""
        return FactoredRows(
            self.edges,
            self.factors + other.factors,
            _sum(self.edge_weights, other.edge_weights),
            _sum(self.projected, other.projected),
        )


def _sum(left: Array | None, right: Array | None) -> Array | None:
    if left is None or right is None:
        return right if left is None else left
    return left + right


def project_rows(
    blocks: Sequence[FactoredRows],
    kernel: Float[Array, "I H"],
    precision: Precision = "float32",
    nodes: Nodes | None = None,
) -> Float[Array, "RB H"]:
    """X W of R blocks of rows of one batch, one block after another, in
    O(R I D H + R B D H + R S H)."""
    return _sum_of_terms(blocks, _products(blocks, kernel, False, precision, nodes), precision)


def project_rows_with_gram(
    blocks: Sequence[FactoredRows],
    kernel: Float[Array, "I H"],
    precision: Precision = "float32",
    nodes: Nodes | None = None,
) -> tuple[Float[Array, "RB H"], Float[Array, "H H"]]:
    """`project_rows`, and the kernel's W^T W, whose gradients are made in one pass."""
    products = _products(blocks, kernel, True, precision, nodes)
    assert products.gram is not None
    return _sum_of_terms(blocks, products, precision), products.gram


def _products(
    blocks: Sequence[FactoredRows],
    kernel: Float[Array, "I H"],
    with_gram: bool,
    precision: Precision,
    nodes: Nodes | None,
) -> KernelProducts:
    items = [items for rows in blocks for _, items in rows.factors]
    weights = [rows.edge_weights for rows in blocks if rows.edge_weights is not None]
    edges = blocks[0].edges
    if nodes is None:
        return kernel_products(kernel, items, weights, edges, with_gram, precision)
    mine, order = edges_of_own_items(edges, len(kernel), nodes)
    weights = [all_gather(by_edge, nodes.axis)[order] for by_edge in weights]
    part = kernel_products(kernel, items, weights, mine, with_gram, precision)
    return KernelProducts(
        psum(part.factors, nodes.axis),
        psum_scatter(part.at_edges, nodes.axis),
        psum(part.gram, nodes.axis),
    )


def _sum_of_terms(
    blocks: Sequence[FactoredRows], products: KernelProducts, precision: Precision
) -> Float[Array, "RB H"]:
    ends = np.cumsum([items.shape[1] for rows in blocks for _, items in rows.factors])[:-1]
    of_factors = iter(jnp.split(products.factors, ends) if products.factors.size else ())
    at_edges = iter(products.at_edges)
    nothing = jnp.zeros((blocks[0].edges.n_rows, products.width), products.factors.dtype)
    projections = []
    for rows in blocks:
        terms = [nothing if rows.projected is None else rows.projected]
        terms += [matmul(users, next(of_factors), precision) for users, _ in rows.factors]
        terms += [] if rows.edge_weights is None else [next(at_edges)]
        projections.append(functools.reduce(jnp.add, terms))
    return jnp.concatenate(projections)
