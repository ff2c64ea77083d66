"""The user-item graph as two directed graphs, each sorted by receiver for `segment_sum`."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmssl_jax.parallel import psum

Normalization = Literal["receiver", "symmetric", "mean"]


class BipartiteGraph(NamedTuple):
    """Messages from items to users and back; senders and receivers count within their own side."""

    to_users: jraph.GraphsTuple
    to_items: jraph.GraphsTuple


class Ends(NamedTuple):
    """One end of each edge: which of `n_nodes` nodes it is. axis: devices over which a node's edges
    are spread, or None."""

    nodes: Int[Array, " E"]
    n_nodes: int
    axis: str | None = None

    def degree(self, mask: Bool[Array, " E"]) -> Float[Array, " E"]:
        """The number of unmasked edges of each edge's node."""
        here = jax.ops.segment_sum(mask.astype(float), self.nodes, self.n_nodes)
        return psum(here, self.axis)[self.nodes]


def edge_weights(
    receivers: Ends, senders: Ends, mask: Bool[Array, " E"], normalization: Normalization
) -> Float[Array, " E"]:
    """Weight of each edge from the degrees d of its ends; masked edges weigh 0.

    receiver: d_r^-1/2 (the paper's 1/sqrt(N_u)); symmetric: (d_r d_s)^-1/2; mean: d_r^-1.
    """
    degree = receivers.degree(mask)
    if normalization == "symmetric":
        degree = degree * senders.degree(mask)
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
    users: Ends, items: Ends, mask: Bool[Array, " E"], normalization: Normalization
) -> BipartiteGraph:
    """Builds both directions from one edge list, on the device.

    Repeated edges stay repeated: their weights add up. Masked edges may name any node; they are
    sorted like the others and weigh nothing.
    """
    by_user = jnp.argsort(users.nodes, stable=True)
    # Of an item's edges, those of one user after those of another, in whatever order they came.
    by_item = by_user[jnp.argsort(items.nodes[by_user], stable=True)]
    user_weights = edge_weights(users, items, mask, normalization)[by_user]
    item_weights = edge_weights(items, users, mask, normalization)[by_item]
    n_nodes, u, i = users.n_nodes + items.n_nodes, users.nodes, items.nodes
    return BipartiteGraph(
        to_users=directed_graph(i[by_user], u[by_user], user_weights, n_nodes),
        to_items=directed_graph(u[by_item], i[by_item], item_weights, n_nodes),
    )


def observed_graph(
    edges: np.ndarray, n_users: int, n_items: int, normalization: Normalization
) -> BipartiteGraph:
    """The graph of the training interactions, `edges` int `[E, 2]` (user, item)."""
    users, items = jnp.asarray(edges[:, 0], jnp.int32), jnp.asarray(edges[:, 1], jnp.int32)
    mask = jnp.ones(len(edges), bool)
    return bipartite_graph(Ends(users, n_users), Ends(items, n_items), mask, normalization)
