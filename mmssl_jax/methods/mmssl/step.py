"""One training step: critic, then generator, then the learned graphs.

Every function is a pure map of the state. Randomness comes in as `Draws`, so that a step can be
replayed with other draws.
"""

from collections.abc import Callable

import jax
import optax
from jaxtyping import Array, Float

from mmssl_jax.method import Metrics
from mmssl_jax.methods.mmssl.draws import Draws, Share, share_batch
from mmssl_jax.methods.mmssl.game.adversarial import critic_loss
from mmssl_jax.methods.mmssl.losses import generator_loss
from mmssl_jax.methods.mmssl.model import Embeddings
from mmssl_jax.methods.mmssl.renewal import collect_or_rebuild, rebuild_for_all
from mmssl_jax.methods.mmssl.state import (
    Inputs,
    Params,
    Setup,
    State,
    critic_optimizer,
    forward,
    spread_params,
)
from mmssl_jax.optimizers import adamw, mean_gradients
from mmssl_jax.parallel import pmean

Pullback = Callable[[Embeddings], Params]


def forward_with_pullback(
    setup: Setup, state: State, inputs: Inputs, draws: Draws
) -> tuple[Embeddings, Pullback]:
    """The generator's embeddings in training mode, and the map from their gradients to those of
    the parameters."""

    def embed(params: Params) -> Embeddings:
        return forward(setup, params, state.learned, inputs, draws.generator_forward)

    embeddings, pull_back = jax.vjp(embed, state.generator)
    return embeddings, lambda gradients: pull_back(gradients)[0]


def critic_gradients(
    setup: Setup, state: State, embeddings: Embeddings, share: Share
) -> tuple[Params, Metrics]:
    """Gradients of the critic's loss, the generator's embeddings standing still."""
    still = jax.lax.stop_gradient(embeddings)

    def loss(params: Params) -> tuple[Float[Array, ""], Metrics]:
        return critic_loss(setup, params, still, share)

    gradients, metrics = jax.grad(loss, has_aux=True)(state.critic)
    spread = spread_params(setup, state.critic)
    return mean_gradients(gradients, setup.axis, spread), pmean(metrics, setup.axis)


def generator_gradients(
    setup: Setup, state: State, embeddings: Embeddings, pull_back: Pullback, share: Share
) -> tuple[Params, Metrics]:
    """Gradients of the generator's loss against the state's critic."""

    def loss(embeddings: Embeddings) -> tuple[Float[Array, ""], Metrics]:
        return generator_loss(setup, embeddings, state.critic, share)

    of_embeddings, parts = jax.grad(loss, has_aux=True)(embeddings)
    spread = spread_params(setup, state.generator)
    gradients = mean_gradients(pull_back(of_embeddings), setup.axis, spread)
    return gradients, pmean(parts, setup.axis)


def apply_critic(setup: Setup, state: State, gradients: Params) -> State:
    """The critic's Adam step."""
    optimizer = critic_optimizer(setup.config)
    updates, critic_opt = optimizer.update(gradients, state.critic_opt, state.critic)
    return state._replace(critic=optax.apply_updates(state.critic, updates), critic_opt=critic_opt)


def apply_generator(setup: Setup, state: State, gradients: Params) -> State:
    """The generator's AdamW step."""
    optimizer = adamw(setup.config.optim, setup.sizes.steps_per_epoch)
    updates, generator_opt = optimizer.update(gradients, state.generator_opt, state.generator)
    return state._replace(
        generator=optax.apply_updates(state.generator, updates), generator_opt=generator_opt
    )


def train_step(setup: Setup, state: State, draws: Draws, inputs: Inputs) -> tuple[State, Metrics]:
    """Critic step, generator step against the new critic, learned graphs; metrics are means.

    With `game.weight` 0 there is no game and no critic step.
    """
    with jax.named_scope("batch_edges"):
        share = share_batch(setup, draws, inputs)
    embeddings, pull_back = forward_with_pullback(setup, state, inputs, draws)
    of_critic: Metrics = {}
    if setup.config.has_critic:
        with jax.named_scope("critic_step"):
            seen = embeddings
            if not setup.config.train.shared_forward:
                seen = forward(setup, state.generator, state.learned, inputs, draws.critic_forward)
            gradients, of_critic = critic_gradients(setup, state, seen, share)
        with jax.named_scope("critic_optimizer"):
            state = apply_critic(setup, state, gradients)
    with jax.named_scope("generator_step"):
        gradients, metrics = generator_gradients(setup, state, embeddings, pull_back, share)
    with jax.named_scope("generator_optimizer"):
        state = apply_generator(setup, state, gradients)
    state = renew(setup, state, embeddings, share, inputs)
    return state._replace(step=state.step + 1), {**metrics, **of_critic}


def renew(
    setup: Setup, state: State, embeddings: Embeddings, share: Share, inputs: Inputs
) -> State:
    """What a step does to the learned graphs, by `structure.source` and `structure.every`.

    `embeddings` are the training pass's, from which the release collects its batches' edges.
    """
    structure = setup.config.structure
    with jax.named_scope("structure"):
        if structure.source == "batches":
            return collect_or_rebuild(setup, state, embeddings, share, inputs)
        if structure.every == 0:
            return state
        due = (state.step + 1) % structure.every == 0
        return jax.lax.cond(due, lambda: rebuild(setup, state, inputs), lambda: state)


def start_epoch(setup: Setup, state: State, inputs: Inputs) -> State:
    """Rebuilds the learned graphs before an epoch, where that is the schedule."""
    structure = setup.config.structure
    if structure.source == "batches" or structure.every:
        return state
    with jax.named_scope("structure"):
        return rebuild(setup, state, inputs)


def rebuild(setup: Setup, state: State, inputs: Inputs) -> State:
    """Rebuilds the learned graphs of all users from the parameters as they are, without dropout."""
    embeddings = forward(setup, state.generator, state.learned, inputs, None)
    return rebuild_for_all(setup, state, embeddings, inputs)
