"""The adversarial game: what the critic scores, and both players' losses (WGAN-GP)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

from mmssl_jax.config import Config
from mmssl_jax.graph.rows import BatchEdges
from mmssl_jax.model.critic import Critic
from mmssl_jax.model.factored_rows import FactoredRows, project_rows, project_rows_with_gram
from mmssl_jax.model.kernel_products import symmetric_product
from mmssl_jax.model.mmssl import Embeddings
from mmssl_jax.model.real_rows import real_rows
from mmssl_jax.model.unit_scores import unit_score_rows, unit_scores
from mmssl_jax.precision import Precision, matmul


class GameDraws(NamedTuple):
    """Randomness of one round of the game.

    noise: a key, or injected uniform draws `[B, I]`, for the Gumbel noise of the whole batch.
    alpha: interpolation weight per row and modality, in [0, 1).
    dropout: key of the critic's dropout masks.
    """

    noise: Shaped[Array, "..."]
    alpha: Float[Array, "B M"]
    dropout: Key[Array, ""]


def generated_rows(
    embeddings: Embeddings, users: Int[Array, " B"], edges: BatchEdges, mask_observed: bool
) -> list[FactoredRows]:
    """The generated rows of each modality, in the order of `feature_user`; one per user."""
    with jax.named_scope("generated_rows"):
        scores = (
            unit_scores(of_users[users], embeddings.feature_item[modality], edges, mask_observed)
            for modality, of_users in embeddings.feature_user.items()
        )
        return [unit_score_rows(rows, edges, mask_observed) for rows in scores]


def batch_real_rows(
    embeddings: Embeddings,
    users: Int[Array, " B"],
    edges: BatchEdges,
    kernel: Float[Array, "I H"],
    noise: Shaped[Array, "..."],
    first_row: Int[Array, ""],
    config: Config,
) -> FactoredRows:
    """The real rows of the batch, one per user: they are the same for all modalities."""
    mask_observed = config.structure.mask_observed
    with jax.named_scope("real_rows"):
        scores = unit_scores(embeddings.user[users], embeddings.item, edges, mask_observed)
        return real_rows(
            scores, edges, kernel, noise, first_row, config.game, mask_observed, config.precision
        )


def score_rows(
    critic: Critic, params: dict, projection: Float[Array, "B H"], dropout: Key[Array, ""]
) -> Float[Array, " B"]:
    """The critic's scores in training mode."""
    scores: Array = critic.apply(  # type: ignore[assignment]
        {"params": params}, projection, False, rngs={"dropout": dropout}
    )
    return scores


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def squared_norms(
    delta: Float[Array, "B H"], gram: Float[Array, "H H"], precision: Precision = "float32"
) -> Float[Array, " B"]:
    """|delta_b W^T|^2 = delta_b (W^T W) delta_b^T of each row b, without the rows [B, I].

    Args:
      gram: W^T W of the kernel W.
    The gradients, 2 g delta (W^T W) and delta^T diag(g) delta for cotangents g, reuse the product
    of the value and take one more, not all of it, as it is symmetric.
    """
    return _squared_norms_forward(delta, gram, precision)[0]


def _squared_norms_forward(
    delta: Float[Array, "B H"], gram: Float[Array, "H H"], precision: Precision
) -> tuple[Float[Array, " B"], tuple[Array, Array]]:
    product = matmul(delta, gram, precision)
    return jnp.sum(product * delta, axis=1), (delta, product)


def _squared_norms_backward(
    precision: Precision, residuals: tuple[Array, Array], cotangent: Float[Array, " B"]
) -> tuple[Float[Array, "B H"], Float[Array, "H H"]]:
    delta, product = residuals
    weighted = cotangent[:, None] * delta
    return 2 * cotangent[:, None] * product, symmetric_product(delta, weighted, precision)


squared_norms.defvjp(_squared_norms_forward, _squared_norms_backward)


def gradient_penalty(
    critic: Critic,
    params: dict,
    projection: Float[Array, "B H"],
    gram: Float[Array, "H H"],
    dropout: Key[Array, ""],
) -> Float[Array, ""]:
    """Mean over rows of (||d score / d x|| - 1)^2.

    With delta = d score / d (x W), the gradient of a row is delta W^T, whose squared norm is
    delta (W^T W) delta^T: one Gram matrix serves all rows and no row is formed.

    Args:
      projection: the rows times the first kernel W.
      gram: W^T W.
    """
    with jax.named_scope("gradient_penalty"):
        delta = jax.grad(lambda x: jnp.sum(score_rows(critic, params, x, dropout)))(projection)
        squared = squared_norms(delta, gram, critic.precision)
        # A gradient of exactly zero has norm 0 and no direction: the root is guarded, no quotient.
        positive = squared > 0
        norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)
        return jnp.mean((norm - 1) ** 2)


def critic_projections(
    kernel: Float[Array, "I H"],
    embeddings: Embeddings,
    users: Int[Array, " B"],
    edges: BatchEdges,
    draws: GameDraws,
    first_row: Int[Array, ""],
    config: Config,
) -> tuple[Float[Array, "MB H"], Float[Array, "MB H"], Float[Array, "MB H"], Float[Array, "H H"]]:
    """Generated rows, real rows, and rows between them, alpha real + (1 - alpha) generated, each
    times the kernel W; modality by modality, for each of which a user's real row stands once.
    And W^T W."""
    generated = generated_rows(embeddings, users, edges, config.structure.mask_observed)
    soft = batch_real_rows(embeddings, users, edges, kernel, draws.noise, first_row, config)
    with jax.named_scope("project_rows"):
        blocks, n_rows = [*generated, soft], users.shape[0]
        projection, gram = project_rows_with_gram(blocks, edges, kernel, n_rows, config.precision)
        *fakes, real = jnp.split(projection, len(blocks))
    # Not `tile`: XLA's CPU backend is slow in the sum that is its gradient.
    fake, real = jnp.concatenate(fakes), jnp.concatenate([real] * len(generated))
    alpha = draws.alpha.T.reshape(-1, 1)
    # The first layer is linear, so the projection of an interpolated row is the interpolation.
    return fake, real, alpha * real + (1 - alpha) * fake, gram


def critic_loss(
    params: dict,
    critic: Critic,
    embeddings: Embeddings,
    users: Int[Array, " B"],
    edges: BatchEdges,
    draws: GameDraws,
    first_row: Int[Array, ""],
    config: Config,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """mean score(generated) - mean score(real) + weight * gradient penalty, and its parts."""
    fake, real, between, gram = critic_projections(
        params["first_kernel"], embeddings, users, edges, draws, first_row, config
    )
    fake_key, real_key, between_key = jax.random.split(draws.dropout, 3)
    fake_score = jnp.mean(score_rows(critic, params, fake, fake_key))
    real_score = jnp.mean(score_rows(critic, params, real, real_key))
    penalty = config.game.gradient_penalty * gradient_penalty(
        critic, params, between, gram, between_key
    )
    loss = fake_score - real_score + penalty
    parts = {
        "critic_loss": loss,
        "gradient_penalty": penalty,
        "score_fake": fake_score,
        "score_real": real_score,
    }
    return loss, parts


def adversarial_loss(
    critic_params: dict,
    critic: Critic,
    embeddings: Embeddings,
    users: Int[Array, " B"],
    edges: BatchEdges,
    dropout: Key[Array, ""],
    mask_observed: bool,
) -> Float[Array, ""]:
    """The generator's side: minus the mean score of its rows."""
    generated = generated_rows(embeddings, users, edges, mask_observed)
    with jax.named_scope("project_rows"):
        kernel, n_rows = critic_params["first_kernel"], users.shape[0]
        projection = project_rows(generated, edges, kernel, n_rows, critic.precision)
    return -jnp.mean(score_rows(critic, critic_params, projection, dropout))
