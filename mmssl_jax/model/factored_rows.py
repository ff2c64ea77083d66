"""Rows over all items as what they are made of, multiplied by a kernel without being formed."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.graph.rows import BatchEdges
from mmssl_jax.model.edge_product import edge_products
from mmssl_jax.precision import Precision, matmul


class FactoredRows(NamedTuple):
    """Rows X `[B, I]` = users items^T + the weights at the batch's edges + Y; None is zero.

    `users` and `items` are given together. Y is known as its product with the kernel alone:
    `projected` = Y W.
    """

    users: Float[Array, "B D"] | None = None
    items: Float[Array, "I D"] | None = None
    edge_weights: Float[Array, " S"] | None = None
    projected: Float[Array, "B H"] | None = None

    def scaled(self, factor: Float[Array, " B"], edges: BatchEdges) -> "FactoredRows":
        """The rows, each times its factor."""
        return self._replace(
            users=None if self.users is None else self.users * factor[:, None],
            edge_weights=None
            if self.edge_weights is None
            else self.edge_weights * factor[edges.row],
            projected=None if self.projected is None else self.projected * factor[:, None],
        )

    def plus(
        self, edge_weights: Float[Array, " S"] | None, projected: Float[Array, "B H"] | None
    ) -> "FactoredRows":
        """The rows with more at their edges, and with more that is known by its product alone."""
        return self._replace(
            edge_weights=_sum(self.edge_weights, edge_weights),
            projected=_sum(self.projected, projected),
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
    """X W of R blocks of `n_rows` rows, one after another, in O(R I D H + R B D H + R S H).

    All blocks share one product with the item vectors (of one width D) and one pass over the edges,
    so each of the two reads the kernel, and writes its gradient, once.
    """
    terms: list[list[Array]] = [[] for _ in blocks]
    factors = [
        (index, rows.users, rows.items)
        for index, rows in enumerate(blocks)
        if rows.users is not None and rows.items is not None
    ]
    if factors:
        items = jnp.concatenate([of_items for *_, of_items in factors], axis=1)
        products = jnp.split(matmul(items.T, kernel, precision), len(factors))
        for (index, users, _), product in zip(factors, products, strict=True):
            terms[index].append(matmul(users, product, precision))
    weighted = [
        (index, rows.edge_weights)
        for index, rows in enumerate(blocks)
        if rows.edge_weights is not None
    ]
    if weighted:
        weights = jnp.stack([of_rows for _, of_rows in weighted], axis=1)
        sums = edge_products(weights, edges, kernel, n_rows)
        for column, (index, _) in enumerate(weighted):
            terms[index].append(sums[:, column])
    for index, rows in enumerate(blocks):
        if rows.projected is not None:
            terms[index].append(rows.projected)
    nothing = jnp.zeros((n_rows, kernel.shape[1]), kernel.dtype)
    return jnp.concatenate([functools.reduce(jnp.add, found, nothing) for found in terms])
