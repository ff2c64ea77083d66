"""One round of message passing: weighted gather, sum by receiver."""

import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Float, Int

# Edges whose messages exist at once. A graph with more is walked in pieces, so that the memory of
# a round is that of its nodes, however many edges there are.
EDGES_AT_ONCE = 2**19


def propagate(
    graph: jraph.GraphsTuple, senders_x: Float[Array, "S C"], n_receivers: int
) -> Float[Array, "R C"]:
    """y_r = sum over edges (s, r) of w_sr x_s, for `n_receivers` receivers (static).

    The edges must be sorted by receiver; a receiver without edges gets zeros.
    """
    n_edges = graph.edges.shape[0]
    if n_edges <= EDGES_AT_ONCE:
        messages = graph.edges[:, None] * senders_x[graph.senders]
        return jax.ops.segment_sum(messages, graph.receivers, n_receivers, indices_are_sorted=True)

    padding = (0, -n_edges % EDGES_AT_ONCE)
    pieces = (
        jnp.pad(graph.edges, padding).reshape(-1, EDGES_AT_ONCE),
        jnp.pad(graph.senders, padding).reshape(-1, EDGES_AT_ONCE),
        jnp.pad(graph.receivers, padding, mode="edge").reshape(-1, EDGES_AT_ONCE),
    )

    def add_piece(
        total: Float[Array, "R C"],
        piece: tuple[Float[Array, " E"], Int[Array, " E"], Int[Array, " E"]],
    ) -> tuple[Float[Array, "R C"], None]:
        weights, senders, receivers = piece
        messages = weights[:, None] * senders_x[senders]
        return total.at[receivers].add(messages, indices_are_sorted=True), None

    start = jnp.zeros((n_receivers, senders_x.shape[1]), senders_x.dtype)
    return jax.lax.scan(add_piece, start, pieces)[0]
