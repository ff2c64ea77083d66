"""Second views of users and items, each a graph that its own embeddings are propagated over.

Users see those with whom they share items: with R [U, I] the training matrix,

    W = (R R' - diag) / row sums            q_U = W^hops x

Items see those of like content: with H_m [I, I] the k nearest items of each by modality m, itself
included, and H = [H_1 | H_2 | ..] the incidence of a hypergraph that has an edge per item and
modality, which holds the items that have that item among their nearest,

    D = row sums of H H'                    q_I = (D^-1/2 H H' D^-1/2)^hops x

Neither W nor H H' is formed: a hop is two sparse products.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmssl_jax.graph.item_graph import Neighbours
from mmssl_jax.graph.propagate import propagate
from mmssl_jax.graph.sparse import SparseMatrix, sparse_matrix
from mmssl_jax.nodes import Nodes, node_sum


class CoUsers(NamedTuple):
    """What the users' view walks: R, the users' degrees, and the inverse row sums of R R' - diag,
    0 for a user who shares no item with anybody."""

    interactions: SparseMatrix
    degree: Float[Array, " U"]
    inverse_sum: Float[Array, " U"]


def co_users(edges: np.ndarray, n_users: int, n_items: int) -> CoUsers:
    """The users' view of the training interactions, `edges` int [E, 2] (user, item)."""
    users, items = jnp.asarray(edges[:, 0], jnp.int32), jnp.asarray(edges[:, 1], jnp.int32)
    user_degree = np.bincount(edges[:, 0], minlength=n_users)
    item_degree = np.bincount(edges[:, 1], minlength=n_items)
    shared = np.bincount(edges[:, 0], item_degree[edges[:, 1]], n_users) - user_degree
    inverse = np.where(shared > 0, 1.0 / np.maximum(shared, 1.0), 0.0)
    return CoUsers(
        sparse_matrix(users, items, jnp.ones(len(edges))),
        jnp.asarray(user_degree, jnp.float32),
        jnp.asarray(inverse, jnp.float32),
    )


def view_of_users(
    view: CoUsers,
    x: Float[Array, "U D"],
    n_items: int,
    hops: int,
    nodes: Nodes | None = None,
) -> Float[Array, "U D"]:
    """q_U: W^hops x. n_items: all that there are."""
    for _ in range(hops):
        of_items = node_sum(propagate(view.interactions.to_columns, x, n_items), nodes)
        sums = propagate(view.interactions.to_rows, of_items, x.shape[0])
        x = view.inverse_sum[:, None] * (sums - view.degree[:, None] * x)
    return x


def content_hypergraph(neighbours: Mapping[str, Neighbours]) -> SparseMatrix:
    """D^-1/2 H [I, M I] of the neighbours by each modality; column m I + j is the edge of item j
    by the modality of number m. Rows of items without any modality are zero."""
    found = list(neighbours.values())
    n_items = len(found[0].items)
    rows, columns, kept = [], [], []
    for number, near in enumerate(found):
        k = near.items.shape[1]
        rows.append(jnp.repeat(jnp.arange(n_items, dtype=jnp.int32), k))
        columns.append((number * n_items + near.items).reshape(-1))
        kept.append(near.found.reshape(-1))
    row, column = jnp.concatenate(rows), jnp.concatenate(columns)
    ones = jnp.concatenate(kept).astype(jnp.float32)
    width = jax.ops.segment_sum(ones, column, len(found) * n_items)  # items of each edge
    degree = jax.ops.segment_sum(ones * width[column], row, n_items)
    positive = degree > 0
    root = jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, degree, 1.0)), 0.0)
    return sparse_matrix(row, column, ones * root[row])


def view_of_items(
    incidence: SparseMatrix,
    x: Float[Array, "I D"],
    n_edges: int,
    hops: int,
    nodes: Nodes | None = None,
) -> Float[Array, "I D"]:
    """q_I: (D^-1/2 H H' D^-1/2)^hops x, with `incidence` as of `content_hypergraph`.

    n_edges: the hypergraph's, modalities times items.
    """
    for _ in range(hops):
        of_edges = node_sum(propagate(incidence.to_columns, x, n_edges), nodes)
        x = propagate(incidence.to_rows, of_edges, x.shape[0])
    return x
