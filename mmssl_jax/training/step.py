"""One training step: critic, then generator, then the learned graphs; and a scan over an epoch.

Every function is a pure map of the state. Randomness comes in as `Draws`, so that a step can be
replayed with other draws; `axis` names the devices the batch is shared by, or is None.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key

from mmssl_jax.config import Config
from mmssl_jax.losses.adversarial import critic_loss
from mmssl_jax.losses.total import generator_loss
from mmssl_jax.model.mmssl import Embeddings
from mmssl_jax.parallel import mean_over
from mmssl_jax.training.draws import Draws, Share, draw, on_this_device, share_batch
from mmssl_jax.training.optimizers import critic_optimizer, generator_optimizer
from mmssl_jax.training.refresh import collect_or_rebuild, rebuild_for_all
from mmssl_jax.training.state import (
    Inputs,
    Sizes,
    TrainState,
    critic_module,
    generator_module,
)

Metrics = dict[str, Float[Array, ""]]
Pullback = Callable[[Embeddings], dict[str, Any]]
Initial = tuple[Float[Array, "U D"], Float[Array, "I D"]]


def forward(
    params: dict,
    learned: dict,
    inputs: Inputs,
    config: Config,
    sizes: Sizes,
    dropout: Key[Array, ""] | None,
) -> Embeddings:
    """The generator's embeddings; without a dropout key, in evaluation mode."""
    rngs = None if dropout is None else {"dropout": dropout}
    embeddings: Embeddings = generator_module(config, sizes).apply(  # type: ignore[assignment]
        {"params": params}, inputs.features, inputs.observed, learned, dropout is None, rngs=rngs
    )
    return embeddings


def forward_with_pullback(
    state: TrainState, inputs: Inputs, config: Config, sizes: Sizes, dropout: Key[Array, ""]
) -> tuple[Embeddings, Pullback]:
    """The generator's embeddings in training mode, and the map from their gradients to those of
    the parameters."""

    def embed(params: dict) -> Embeddings:
        return forward(params, state.learned, inputs, config, sizes, dropout)

    embeddings, pull_back = jax.vjp(embed, state.generator)
    return embeddings, lambda gradients: pull_back(gradients)[0]


def critic_gradients(
    state: TrainState,
    embeddings: Embeddings,
    share: Share,
    draws: Draws,
    config: Config,
    sizes: Sizes,
    axis: str | None,
) -> tuple[dict, Metrics]:
    """Gradients of the critic's loss, the generator's embeddings standing still."""
    game = draws.game._replace(alpha=share.alpha, dropout=on_this_device(draws.game.dropout, axis))
    gradients, parts = jax.grad(critic_loss, has_aux=True)(
        state.critic,
        critic_module(config, sizes, axis),
        jax.lax.stop_gradient(embeddings),
        share.batch.users,
        share.edges,
        game,
        share.first_row,
        config,
    )
    return mean_over((gradients, parts), axis)


def generator_gradients(
    state: TrainState,
    embeddings: Embeddings,
    pull_back: Pullback,
    share: Share,
    draws: Draws,
    config: Config,
    sizes: Sizes,
    axis: str | None,
) -> tuple[dict, Metrics]:
    """Gradients of the generator's loss against the state's critic."""

    def loss(embeddings: Embeddings, initial: Initial) -> tuple[Float[Array, ""], Metrics]:
        return generator_loss(
            embeddings,
            initial,
            share.batch,
            share.edges,
            critic_module(config, sizes, axis),
            state.critic,
            on_this_device(draws.generator_critic, axis),
            config,
            axis,
        )

    names = ("user_embedding", "item_embedding")
    initial = tuple(state.generator[name] for name in names)
    (of_embeddings, of_initial), parts = jax.grad(loss, argnums=(0, 1), has_aux=True)(
        embeddings, initial
    )
    gradients = dict(pull_back(of_embeddings))
    for name, direct in zip(names, of_initial, strict=True):
        gradients[name] = gradients[name] + direct
    return mean_over((gradients, parts), axis)


def apply_critic(state: TrainState, gradients: dict, config: Config) -> TrainState:
    """The critic's Adam step."""
    updates, critic_opt = critic_optimizer(config.optim).update(
        gradients, state.critic_opt, state.critic
    )
    critic = optax.apply_updates(state.critic, updates)
    return state._replace(critic=critic, critic_opt=critic_opt)


def apply_generator(state: TrainState, gradients: dict, config: Config, sizes: Sizes) -> TrainState:
    """The generator's AdamW step."""
    updates, generator_opt = generator_optimizer(config.optim, sizes.steps_per_epoch).update(
        gradients, state.generator_opt, state.generator
    )
    generator = optax.apply_updates(state.generator, updates)
    return state._replace(generator=generator, generator_opt=generator_opt)


def train_step(
    state: TrainState,
    draws: Draws,
    inputs: Inputs,
    config: Config,
    sizes: Sizes,
    axis: str | None = None,
) -> tuple[TrainState, Metrics]:
    """Critic step, generator step against the new critic, learned graphs; metrics are means.

    With `game.weight` 0 there is no game and no critic step.
    """
    with jax.named_scope("batch_edges"):
        share = share_batch(draws, inputs, sizes, axis)
    embeddings, pull_back = forward_with_pullback(
        state, inputs, config, sizes, draws.generator_forward
    )
    metrics: Metrics = {}
    if config.game.weight and config.game.kind == "adversarial":
        with jax.named_scope("critic_step"):
            # The same dropout masks make it the same forward pass.
            seen = (
                embeddings
                if config.train.shared_forward
                else forward(
                    state.generator, state.learned, inputs, config, sizes, draws.critic_forward
                )
            )
            gradients, metrics = critic_gradients(state, seen, share, draws, config, sizes, axis)
        with jax.named_scope("critic_optimizer"):
            state = apply_critic(state, gradients, config)
    with jax.named_scope("generator_step"):
        gradients, parts = generator_gradients(
            state, embeddings, pull_back, share, draws, config, sizes, axis
        )
    with jax.named_scope("generator_optimizer"):
        state = apply_generator(state, gradients, config, sizes)
    state = refresh(state, embeddings, share, inputs, config, sizes, axis)
    return state._replace(step=state.step + 1), {**metrics, **parts}


def refresh(
    state: TrainState,
    embeddings: Embeddings,
    share: Share,
    inputs: Inputs,
    config: Config,
    sizes: Sizes,
    axis: str | None,
) -> TrainState:
    """What a step does to the learned graphs, by `structure.source` and `structure.every`.

    `embeddings` are the training pass's, from which the release collects its batches' edges.
    """
    with jax.named_scope("structure"):
        if config.structure.source == "batches":
            return collect_or_rebuild(state, embeddings, share, config, sizes, axis)
        if config.structure.every == 0:
            return state
        due = (state.step + 1) % config.structure.every == 0
        return rebuild_if(due, state, inputs, config, sizes)


def start_epoch(state: TrainState, inputs: Inputs, config: Config, sizes: Sizes) -> TrainState:
    """Rebuilds the learned graphs at the first step of an epoch, where that is the schedule."""
    if config.structure.source == "batches" or config.structure.every:
        return state
    with jax.named_scope("structure"):
        due = state.step % sizes.steps_per_epoch == 0
        return rebuild_if(due, state, inputs, config, sizes)


def rebuild_if(
    due: Bool[Array, ""], state: TrainState, inputs: Inputs, config: Config, sizes: Sizes
) -> TrainState:
    """Rebuilds the learned graphs of all users from the parameters as they are, without dropout."""

    def rebuild() -> TrainState:
        embeddings = forward(state.generator, state.learned, inputs, config, sizes, None)
        return rebuild_for_all(state, embeddings, inputs, config, sizes)

    return jax.lax.cond(due, rebuild, lambda: state)


def train_steps(
    state: TrainState,
    inputs: Inputs,
    config: Config,
    sizes: Sizes,
    n_steps: int,
    axis: str | None = None,
) -> tuple[TrainState, Metrics]:
    """`n_steps` steps as one scan, drawn from the state's own key; metrics are means over them."""

    def step(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        with jax.named_scope("sampling"):
            draws = draw(state.key, state.step, inputs, config, sizes)
        return train_step(state, draws, inputs, config, sizes, axis)

    state, metrics = jax.lax.scan(step, start_epoch(state, inputs, config, sizes), length=n_steps)
    return state, jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)
