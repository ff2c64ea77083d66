"""One round of message passing: weighted gather, sum by receiver."""

import jax
import jraph
from jaxtyping import Array, Float


def propagate(
    graph: jraph.GraphsTuple, senders_x: Float[Array, "S C"], n_receivers: int
) -> Float[Array, "R C"]:
    """y_r = sum over edges (s, r) of w_sr x_s, for `n_receivers` receivers (static).

    The edges must be sorted by receiver; a receiver without edges gets zeros.
    """
    messages = graph.edges[:, None] * senders_x[graph.senders]
    return jax.ops.segment_sum(messages, graph.receivers, n_receivers, indices_are_sorted=True)
