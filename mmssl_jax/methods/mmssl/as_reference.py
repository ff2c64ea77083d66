"""The package's state, draws and inputs as the plain form takes them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.graph.bipartite import BipartiteGraph
from mmssl_jax.methods.mmssl import reference
from mmssl_jax.methods.mmssl.draws import Draws
from mmssl_jax.methods.mmssl.state import Inputs, Setup, State


def plain_data(setup: Setup, inputs: Inputs) -> reference.Data:
    """The training interactions and features."""
    rows = inputs.rows
    return reference.Data(
        edges=reference.Edges(rows.users, rows.items, jnp.ones(rows.users.shape, bool)),
        features=inputs.features,
        present={m: partial.present for m, partial in inputs.observed.partial.items()},
        n_users=setup.sizes.n_users,
        n_items=setup.sizes.n_items,
    )


def plain_edges(graph: BipartiteGraph) -> reference.Edges:
    """A learned graph as an edge list; edges that weigh nothing are empty places."""
    to_users = graph.to_users
    return reference.Edges(to_users.receivers, to_users.senders, to_users.edges > 0)


def plain_state(state: State) -> reference.State:
    """The state with its learned graphs as edge lists."""
    return reference.State(
        step=state.step,
        generator=state.generator,
        critic=state.critic or {},
        generator_opt=state.generator_opt,
        critic_opt=state.critic_opt,
        learned={m: plain_edges(graph) for m, graph in state.learned.items()},
        collected={m: reference.Edges(*edges) for m, edges in state.pending.items()},
    )


def plain_draws(draws: Draws, n_items: int) -> reference.Draws:
    """The draws, with the noise of the real rows in full. A key gives other noise than it gives the
    package, which draws in pieces; injected draws give the same."""
    noise = draws.game.noise
    uniform: Float[Array, "B I"] = noise
    if jnp.issubdtype(noise.dtype, jax.dtypes.prng_key):
        uniform = jax.random.uniform(noise, (draws.batch.users.shape[0], n_items))
    return reference.Draws(
        *draws.batch,
        uniform=uniform,
        alpha=draws.game.alpha,
        critic_forward=draws.critic_forward,
        generator_forward=draws.generator_forward,
        critic=draws.game.dropout,
        generator_critic=draws.generator_critic,
    )
