"""A sparse matrix and its transpose, as two directed graphs that `propagate` multiplies by."""

from typing import NamedTuple

import jax.numpy as jnp
import jraph
from jaxtyping import Array, Float, Int

from mmssl_jax.graph.bipartite import directed_graph


class SparseMatrix(NamedTuple):
    """W [N, M] by its entries: with `propagate(graph, x, n_receivers)`, `to_rows` is
    W x [N, C] of x [M, C], and `to_columns` is W' y [M, C] of y [N, C]."""

    to_rows: jraph.GraphsTuple
    to_columns: jraph.GraphsTuple


def sparse_matrix(
    rows: Int[Array, " E"], columns: Int[Array, " E"], weights: Float[Array, " E"]
) -> SparseMatrix:
    """The matrix of these entries, in any order; those of one place add up."""
    by_row, by_column = jnp.argsort(rows, stable=True), jnp.argsort(columns, stable=True)
    n_nodes = rows.shape[0]  # of no meaning here: jraph wants a number
    return SparseMatrix(
        directed_graph(columns[by_row], rows[by_row], weights[by_row], n_nodes),
        directed_graph(rows[by_column], columns[by_column], weights[by_column], n_nodes),
    )
