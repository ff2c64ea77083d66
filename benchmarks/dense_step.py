"""A training step whose game is played on dense rows `[B, I]`, as the PyTorch release does it.

For comparison only: the same draws give the same step as `mmssl_jax.training.step.train_step`, but
every generated, real and interpolated row is formed and goes through the critic's first layer, and
the gradient penalty differentiates with respect to the rows. Everything else is the package's own.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

from mmssl_jax.config import Config
from mmssl_jax.graph.rows import BatchEdges
from mmssl_jax.losses.adversarial import score_rows
from mmssl_jax.losses.total import recommendation_losses
from mmssl_jax.model.critic import Critic
from mmssl_jax.model.mmssl import Embeddings
from mmssl_jax.model.norms import unit_rows
from mmssl_jax.model.real_rows import gumbel, logit_scales
from mmssl_jax.training.draws import Draws, Share, share_batch
from mmssl_jax.training.state import Inputs, Sizes, TrainState, critic_module
from mmssl_jax.training.step import apply_critic, apply_generator, forward, refresh


def training_rows(edges: BatchEdges, n_rows: int, n_items: int) -> Float[Array, "B I"]:
    """The batch's 0/1 training rows."""
    column = jnp.where(edges.mask, edges.item, n_items)  # out of range is dropped
    return jnp.zeros((n_rows, n_items)).at[edges.row, column].set(1.0, mode="drop")


def unit_score_rows(
    users: Float[Array, "B D"],
    items: Float[Array, "I D"],
    observed: Float[Array, "B I"],
    mask_observed: bool,
) -> Float[Array, "B I"]:
    """Unit rows of all scores; `mask_observed` zeroes those of training interactions."""
    scores = users @ items.T
    return unit_rows(scores * (1 - observed) if mask_observed else scores)


def generated_rows(
    embeddings: Embeddings, users: Int[Array, " B"], observed: Float[Array, "B I"], config: Config
) -> Float[Array, "MB I"]:
    """One row per user and modality, modality by modality."""
    return jnp.concatenate(
        [
            unit_score_rows(
                of_users[users],
                embeddings.feature_item[modality],
                observed,
                config.structure.mask_observed,
            )
            for modality, of_users in embeddings.feature_user.items()
        ]
    )


def real_rows(
    embeddings: Embeddings,
    users: Int[Array, " B"],
    observed: Float[Array, "B I"],
    noise: Shaped[Array, "..."],
    config: Config,
) -> Float[Array, "B I"]:
    """Gumbel-softened training rows with the model's own scores, or the training rows as they are.

    noise: a key, or injected uniform draws `[B, I]`.
    """
    game = config.game
    if game.real_rows == "observed":
        return unit_rows(observed)
    is_key = jnp.issubdtype(noise.dtype, jax.dtypes.prng_key)
    uniform = jax.random.uniform(noise, observed.shape) if is_key else noise
    observed_scale, noise_scale = logit_scales(game)
    soft = jax.nn.softmax(observed_scale * observed + noise_scale * gumbel(uniform), axis=1)
    scores = unit_score_rows(
        embeddings.user[users], embeddings.item, observed, config.structure.mask_observed
    )
    return unit_rows(soft + game.score_weight * scores)


def dense_scores(
    critic: Critic, params: dict, rows: Float[Array, "B I"], dropout: Key[Array, ""]
) -> Float[Array, " B"]:
    """The critic's scores of rows in full."""
    return score_rows(critic, params, rows @ params["first_kernel"], dropout)


def dense_penalty(
    critic: Critic, params: dict, rows: Float[Array, "B I"], dropout: Key[Array, ""]
) -> Float[Array, ""]:
    """Mean over rows of (||d score / d row|| - 1)^2, the gradient `[B, I]` in full."""
    of_rows = jax.grad(lambda rows: jnp.sum(dense_scores(critic, params, rows, dropout)))(rows)
    squared = jnp.sum(of_rows * of_rows, axis=1)
    positive = squared > 0
    norms = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)
    return jnp.mean((norms - 1) ** 2)


def dense_critic_loss(
    params: dict,
    critic: Critic,
    embeddings: Embeddings,
    share: Share,
    observed: Float[Array, "B I"],
    draws: Draws,
    config: Config,
) -> Float[Array, ""]:
    """mean score(generated) - mean score(real) + weight * gradient penalty."""
    users, game = share.batch.users, draws.game
    fake = generated_rows(embeddings, users, observed, config)
    real = real_rows(embeddings, users, observed, game.noise, config)
    real = jnp.tile(real, (len(embeddings.feature_user), 1))
    alpha = share.alpha.T.reshape(-1, 1)
    between = alpha * real + (1 - alpha) * fake
    fake_key, real_key, between_key = jax.random.split(game.dropout, 3)
    gap = jnp.mean(dense_scores(critic, params, fake, fake_key)) - jnp.mean(
        dense_scores(critic, params, real, real_key)
    )
    return gap + config.game.gradient_penalty * dense_penalty(critic, params, between, between_key)


def dense_train_step(
    state: TrainState, draws: Draws, inputs: Inputs, config: Config, sizes: Sizes
) -> TrainState:
    """The state after one step on one device; `train_step`'s, up to rounding.

    With a key as noise the Gumbel draws are others than `train_step`'s; inject uniform draws
    `[B, I]` to compare the two. The configuration must have the adversarial game.
    """
    share = share_batch(draws, inputs, sizes, None)
    users, critic = share.batch.users, critic_module(config, sizes)
    observed = training_rows(share.edges, users.shape[0], sizes.n_items)

    def embed(params: dict, dropout: Key[Array, ""]) -> Embeddings:
        return forward(params, state.learned, inputs, config, sizes, dropout)

    seen = jax.lax.stop_gradient(embed(state.generator, draws.critic_forward))
    gradients = jax.grad(dense_critic_loss)(
        state.critic, critic, seen, share, observed, draws, config
    )
    state = apply_critic(state, gradients, config)

    def loss(params: dict) -> tuple[Float[Array, ""], Any]:
        embeddings = embed(params, draws.generator_forward)
        initial = params["user_embedding"], params["item_embedding"]
        total, _ = recommendation_losses(embeddings, initial, *share.batch, config.loss)
        fake = generated_rows(embeddings, users, observed, config)
        scores = dense_scores(critic, state.critic, fake, draws.generator_critic)
        return total - config.game.weight * jnp.mean(scores), embeddings

    gradients, embeddings = jax.grad(loss, has_aux=True)(state.generator)
    state = apply_generator(state, gradients, config, sizes)
    state = refresh(state, embeddings, share, inputs, config, sizes, None)
    return state._replace(step=state.step + 1)
