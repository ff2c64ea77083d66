"""Rows over all items as what they are made of, multiplied by a kernel without being formed."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmssl_jax.graph.rows import BatchEdges
from mmssl_jax.model.kernel_products import KernelProducts, kernel_products
from mmssl_jax.precision import Precision, matmul

Factor = tuple[Float[Array, "B _D"], Float[Array, "I _D"]]


class FactoredRows(NamedTuple):
    """Rows X `[B, I]` = sum over factors (users, items) of users items^T + the weights at the
    batch's edges + Y; None is zero.

    Y is known as its product with the kernel alone: `projected` = Y W.
    """

    factors: tuple[Factor, ...] = ()
    edge_weights: Float[Array, " S"] | None = None
    projected: Float[Array, "B H"] | None = None

    def scaled(self, factor: Float[Array, " B"], edges: BatchEdges) -> "FactoredRows":
        """The rows, each times its factor."""
        by_edge = None if self.edge_weights is None else self.edge_weights * factor[edges.row]
        projected = None if self.projected is None else self.projected * factor[:, None]
        factors = tuple((users * factor[:, None], items) for users, items in self.factors)
        return FactoredRows(factors, by_edge, projected)

    def plus(self, other: "FactoredRows") -> "FactoredRows":
        """The sum of the rows."""
        return FactoredRows(
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
    edges: BatchEdges,
    kernel: Float[Array, "I H"],
    n_rows: int,
    precision: Precision = "float32",
) -> Float[Array, "RB H"]:
    """X W of R blocks of `n_rows` rows, one after another, in O(R I D H + R B D H + R S H)."""
    return _project(blocks, edges, kernel, n_rows, False, precision)[0]


def project_rows_with_gram(
    blocks: Sequence[FactoredRows],
    edges: BatchEdges,
    kernel: Float[Array, "I H"],
    n_rows: int,
    precision: Precision = "float32",
) -> tuple[Float[Array, "RB H"], Float[Array, "H H"]]:
    """`project_rows`, and the kernel's W^T W, whose gradients are made in one pass."""
    projection, gram = _project(blocks, edges, kernel, n_rows, True, precision)
    assert gram is not None
    return projection, gram


def _project(
    blocks: Sequence[FactoredRows],
    edges: BatchEdges,
    kernel: Float[Array, "I H"],
    n_rows: int,
    with_gram: bool,
    precision: Precision,
) -> tuple[Float[Array, "RB H"], Float[Array, "H H"] | None]:
    factors = [(index, *factor) for index, rows in enumerate(blocks) for factor in rows.factors]
    weighted = [(i, r.edge_weights) for i, r in enumerate(blocks) if r.edge_weights is not None]
    products: KernelProducts = kernel_products(
        kernel,
        [items for *_, items in factors],
        [weights for _, weights in weighted],
        edges,
        n_rows,
        with_gram,
        precision,
    )
    nothing = jnp.zeros((n_rows, kernel.shape[1]), kernel.dtype)
    terms = [[nothing if r.projected is None else r.projected] for r in blocks]
    ends = np.cumsum([items.shape[1] for *_, items in factors])[:-1]
    if factors:
        parts = jnp.split(products.factors, ends)
        for (index, users, _), product in zip(factors, parts, strict=True):
            terms[index].append(matmul(users, product, precision))
    for (index, _), product in zip(weighted, products.at_edges, strict=True):
        terms[index].append(product)
    projection = jnp.concatenate([functools.reduce(jnp.add, found) for found in terms])
    return projection, products.gram
