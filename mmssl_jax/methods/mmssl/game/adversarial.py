"""The adversarial game: what the critic scores, and both players' losses (WGAN-GP)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mmssl_jax.method import Metrics
from mmssl_jax.methods.mmssl.draws import Share
from mmssl_jax.methods.mmssl.game.critic import Critic
from mmssl_jax.methods.mmssl.game.factored_rows import (
    FactoredRows,
    project_rows,
    project_rows_with_gram,
)
from mmssl_jax.methods.mmssl.game.real_rows import Noise, real_rows
from mmssl_jax.methods.mmssl.game.unit_rows import UnitScores, unit_scores
from mmssl_jax.methods.mmssl.model import Embeddings
from mmssl_jax.methods.mmssl.state import Params, Setup, critic_module
from mmssl_jax.nodes import own_rows
from mmssl_jax.precision import Precision, matmul


def generated_rows(setup: Setup, embeddings: Embeddings, share: Share) -> list[FactoredRows]:
    """The generated rows of each modality, in the order of `feature_user`; one per user."""
    with jax.named_scope("generated_rows"):
        return [
            _batch_scores(setup, (of_users, embeddings.feature_item[m]), share).rows()
            for m, of_users in embeddings.feature_user.items()
        ]


def _batch_scores(setup: Setup, vectors: tuple[Array, Array], share: Share) -> UnitScores:
    """The unit score rows of the batch's users by vectors of all users and items."""
    (users, items), masked = vectors, setup.config.structure.mask_observed
    of_batch = own_rows(users, share.batch.users, setup.nodes)
    return unit_scores(of_batch, items, share.edges, masked, setup.nodes)


def batch_real_rows(
    setup: Setup, embeddings: Embeddings, share: Share, kernel: Float[Array, "I H"]
) -> FactoredRows:
    """The real rows of the batch, one per user: they are the same for all modalities."""
    config = setup.config
    with jax.named_scope("real_rows"):
        scores = _batch_scores(setup, (embeddings.user, embeddings.item), share)
        noise = Noise(share.game.noise, share.first_row)
        return real_rows(scores, kernel, noise, config.game, config.precision, setup.nodes)


def _row_numbers(share: Share, n_blocks: int) -> Int[Array, " RB"]:
    """Numbers of the rows of this device's share, one for each user in each of `n_blocks` blocks,
    block after block; a row has the same number on however many devices the batch lies."""
    users = share.first_row + jnp.arange(share.batch.users.shape[0])
    return (users[None, :] * n_blocks + jnp.arange(n_blocks)[:, None]).reshape(-1)


def score_rows(
    critic: Critic,
    params: Params,
    projection: Float[Array, "B H"],
    dropout: Key[Array, ""],
    rows: Int[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """The critic's scores in training mode. rows: as in `Critic`."""
    scores: Array = critic.apply(  # type: ignore[assignment]
        {"params": params}, projection, False, rows, rngs={"dropout": dropout}
    )
    return scores


def squared_norms(
    delta: Float[Array, "B H"], gram: Float[Array, "H H"], precision: Precision = "float32"
) -> Float[Array, " B"]:
    """|delta_b W^T|^2 = delta_b (W^T W) delta_b^T of each row b, without the rows [B, I].

    gram: W^T W of the kernel W. Differentiable once.
    """
    still = jax.lax.stop_gradient
    product = matmul(still(delta), gram, precision)
    # As the gram matrix is symmetric, the gradient in delta is 2 delta (W^T W). The second term, of
    # value 0, has that gradient and takes the product as it is, in place of another of its size.
    correction = 2 * still(product) * (delta - still(delta))
    return jnp.sum(product * still(delta) + correction, axis=1)


def gradient_penalty(
    critic: Critic,
    params: Params,
    projection: Float[Array, "B H"],
    gram: Float[Array, "H H"],
    dropout: Key[Array, ""],
    rows: Int[Array, " B"] | None = None,
) -> Float[Array, ""]:
    """Mean over rows of (||d score / d x|| - 1)^2.

    With delta = d score / d (x W), the gradient of a row is delta W^T, whose squared norm is
    delta (W^T W) delta^T: one Gram matrix serves all rows and no row is formed.

    Args:
      projection: the rows times the first kernel W.
      gram: W^T W.
    """
    with jax.named_scope("gradient_penalty"):
        delta = jax.grad(lambda x: jnp.sum(score_rows(critic, params, x, dropout, rows)))(
            projection
        )
        squared = squared_norms(delta, gram, critic.precision)
        # A gradient of exactly zero has norm 0 and no direction: the root is guarded, no quotient.
        positive = squared > 0
        norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)
        return jnp.mean((norm - 1) ** 2)


def critic_projections(
    setup: Setup, kernel: Float[Array, "I H"], embeddings: Embeddings, share: Share
) -> tuple[Float[Array, "MB H"], Float[Array, "MB H"], Float[Array, "MB H"], Float[Array, "H H"]]:
    """Generated rows, real rows, and rows between them, alpha real + (1 - alpha) generated, each
    times the kernel W; modality by modality, for each of which a user's real row stands once.
    And W^T W."""
    blocks = generated_rows(setup, embeddings, share)
    blocks.append(batch_real_rows(setup, embeddings, share, kernel))
    with jax.named_scope("project_rows"):
        projection, gram = project_rows_with_gram(
            blocks, kernel, setup.config.precision, setup.nodes
        )
        *fakes, real = jnp.split(projection, len(blocks))
    # Not `tile`: XLA's CPU backend is slow in the sum that is its gradient.
    fake, real = jnp.concatenate(fakes), jnp.concatenate([real] * len(fakes))
    alpha = share.game.alpha.T.reshape(-1, 1)
    # The first layer is linear, so the projection of an interpolated row is the interpolation.
    return fake, real, alpha * real + (1 - alpha) * fake, gram


def critic_loss(
    setup: Setup, params: Params, embeddings: Embeddings, share: Share
) -> tuple[Float[Array, ""], Metrics]:
    """mean score(generated) - mean score(real) + weight * gradient penalty, and its parts."""
    critic = critic_module(setup)
    fake, real, between, gram = critic_projections(setup, params["first_kernel"], embeddings, share)
    fake_key, real_key, between_key = jax.random.split(share.game.dropout, 3)
    rows = _row_numbers(share, len(embeddings.feature_user))
    fake_score = jnp.mean(score_rows(critic, params, fake, fake_key, rows))
    real_score = jnp.mean(score_rows(critic, params, real, real_key, rows))
    penalty = setup.config.game.gradient_penalty * gradient_penalty(
        critic, params, between, gram, between_key, rows
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
    setup: Setup, params: Params, embeddings: Embeddings, share: Share
) -> Float[Array, ""]:
    """The generator's side: minus the mean score of its rows, by a critic of these parameters."""
    generated = generated_rows(setup, embeddings, share)
    with jax.named_scope("project_rows"):
        projection = project_rows(
            generated, params["first_kernel"], setup.config.precision, setup.nodes
        )
    critic, rows = critic_module(setup), _row_numbers(share, len(generated))
    scores = score_rows(critic, params, projection, share.generator_critic, rows)
    return -jnp.mean(scores)
