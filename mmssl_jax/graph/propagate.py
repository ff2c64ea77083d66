"""One round of message passing: weighted gather, sum by receiver."""

import functools

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Float, Int

from mmssl_jax.blocks import Block, fold_blocks, zeros_of_its_own

# Edges whose messages exist at once. A graph with more is walked in pieces, so that the memory of
# a round is that of its nodes, however many edges there are.
EDGES_AT_ONCE = 2**19


def propagate(
    graph: jraph.GraphsTuple, senders_x: Float[Array, "S C"], n_receivers: int
) -> Float[Array, "R C"]:
    """y_r = sum over edges (s, r) of w_sr x_s, for `n_receivers` receivers (static).

    The edges must be sorted by receiver; a receiver without edges gets zeros. No gradient flows to
    the edges' weights.
    """
    weights = jax.lax.stop_gradient(graph.edges)
    if weights.shape[0] > EDGES_AT_ONCE:
        return _in_pieces(n_receivers, weights, graph.senders, graph.receivers, senders_x)
    messages = weights[:, None] * senders_x[graph.senders]
    return jax.ops.segment_sum(messages, graph.receivers, n_receivers, indices_are_sorted=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_pieces(
    n_receivers: int,
    weights: Float[Array, " E"],
    senders: Int[Array, " E"],
    receivers: Int[Array, " E"],
    senders_x: Float[Array, "S C"],
) -> Float[Array, "R C"]:
    """The same for more than `EDGES_AT_ONCE` edges."""
    return _sum_messages(n_receivers, weights, senders, receivers, senders_x, True)


def _forward(
    n_receivers: int,
    weights: Float[Array, " E"],
    senders: Int[Array, " E"],
    receivers: Int[Array, " E"],
    senders_x: Float[Array, "S C"],
) -> tuple[Float[Array, "R C"], tuple]:
    y = _in_pieces(n_receivers, weights, senders, receivers, senders_x)
    return y, (weights, senders, receivers, senders_x[:, :0])  # for its number of rows


def _backward(n_receivers: int, residuals: tuple, gradient: Float[Array, "R C"]) -> tuple:
    """Messages the other way."""
    weights, senders, receivers, like = residuals
    of_x = _sum_messages(like.shape[0], weights, receivers, senders, gradient, False)
    no_tangent = np.zeros(senders.shape, jax.dtypes.float0)
    return jnp.zeros_like(weights), no_tangent, no_tangent, of_x


_in_pieces.defvjp(_forward, _backward)


def _sum_messages(
    n_receivers: int,
    weights: Float[Array, " E"],
    senders: Int[Array, " E"],
    receivers: Int[Array, " E"],
    x: Float[Array, "S C"],
    is_sorted: bool,
) -> Float[Array, "R C"]:
    def add_piece(total: Float[Array, "R C"], piece: Block) -> Float[Array, "R C"]:
        w, from_nodes, to_nodes = piece.cut((weights, senders, receivers))
        messages = piece.only_new(w, 0.0)[:, None] * x[from_nodes]
        return total.at[to_nodes].add(messages, indices_are_sorted=is_sorted)

    start = zeros_of_its_own((n_receivers, x.shape[1]), x.dtype, x)
    return fold_blocks(weights.shape[0], EDGES_AT_ONCE, start, add_piece)
