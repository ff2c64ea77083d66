"""The user-item graph as two directed graphs, each sorted by receiver for `segment_sum`."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Normalization = Literal["receiver", "symmetric", "mean"]


class BipartiteGraph(NamedTuple):
    """Messages from items to users and back; senders and receivers count within their own side."""

    to_users: jraph.GraphsTuple
    to_items: jraph.GraphsTuple


def edge_weights(
    receivers: Int[Array, " E"],
    senders: Int[Array, " E"],
    mask: Bool[Array, " E"],
    n_receivers: int,
    n_senders: int,
    normalization: Normalization,
) -> Float[Array, " E"]:
    """Weight of each edge from the degrees d of its ends; masked edges weigh 0.

    receiver: d_r^-1/2 (the paper's 1/sqrt(N_u)); symmetric: (d_r d_s)^-1/2; mean: d_r^-1.
    """
    present = mask.astype(float)
    degree = jax.ops.segment_sum(present, receivers, n_receivers)[receivers]
    if normalization == "symmetric":
        degree = degree * jax.ops.segment_sum(present, senders, n_senders)[senders]
    power = -1.0 if normalization == "mean" else -0.5
    return jnp.where(mask, jnp.where(mask, degree, 1.0) ** power, 0.0)


def directed_graph(
    senders: Int[Array, " E"],
    receivers: Int[Array, " E"],
    weights: Float[Array, " E"],
    n_nodes: int,
) -> jraph.GraphsTuple:
    """Weighted edges, sorted by receiver, as `propagate` takes them."""
    return jraph.GraphsTuple(
        nodes=None,
        edges=weights,
        senders=senders,
        receivers=receivers,
        globals=None,
        n_node=jnp.array([n_nodes], jnp.int32),
        n_edge=jnp.array([senders.shape[0]], jnp.int32),
    )


def bipartite_graph(
    users: Int[Array, " E"],
    items: Int[Array, " E"],
    mask: Bool[Array, " E"],
    n_users: int,
    n_items: int,
    normalization: Normalization,
) -> BipartiteGraph:
    """Builds both directions from one edge list, on the device.

    Repeated edges stay repeated: their weights add up. Masked edges may name any node; they are
    sorted like the others and weigh nothing.
    """
    by_user, by_item = jnp.argsort(users, stable=True), jnp.argsort(items, stable=True)
    user_weights = edge_weights(users, items, mask, n_users, n_items, normalization)
    item_weights = edge_weights(items, users, mask, n_items, n_users, normalization)
    n_nodes = n_users + n_items
    return BipartiteGraph(
        to_users=directed_graph(items[by_user], users[by_user], user_weights[by_user], n_nodes),
        to_items=directed_graph(users[by_item], items[by_item], item_weights[by_item], n_nodes),
    )


def observed_graph(
    edges: np.ndarray, n_users: int, n_items: int, normalization: Normalization
) -> BipartiteGraph:
    """The graph of the training interactions, `edges` int `[E, 2]` (user, item)."""
    users, items = jnp.asarray(edges[:, 0], jnp.int32), jnp.asarray(edges[:, 1], jnp.int32)
    mask = jnp.ones(len(edges), bool)
    return bipartite_graph(users, items, mask, n_users, n_items, normalization)
