"""The randomness of a training step, and one device's share of its batch."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int, Key, Shaped

from mmssl_jax.graph.rows import BatchEdges, batch_edges
from mmssl_jax.methods.mmssl.state import Inputs, Setup
from mmssl_jax.parallel import axis_index, share_of
from mmssl_jax.sampling import Batch, sample_batch


class GameDraws(NamedTuple):
    """Randomness of one round of the game.

    noise: a key, or injected uniform draws `[B, I]`, for the Gumbel noise of the whole batch.
    alpha: interpolation weight per row and modality, in [0, 1).
    dropout: key of the critic's dropout masks.
    """

    noise: Shaped[Array, "..."]
    alpha: Float[Array, "B M"]
    dropout: Key[Array, ""]


class Draws(NamedTuple):
    """All randomness of one step, for the whole batch of all devices."""

    batch: Batch
    game: GameDraws
    critic_forward: Key[Array, ""]  # feature dropout of the critic's forward pass
    generator_forward: Key[Array, ""]
    generator_critic: Key[Array, ""]  # the critic's dropout in the generator's loss


class Share(NamedTuple):
    """One device's part of a batch: its triples, their users' interactions, and its draws.

    `batch` has the rows of its users, `users` their numbers, which differ where rows are spread.
    `first_row` is the place of its first row in the whole batch; the keys are those of all devices,
    whose draws are keyed by a row's place.
    """

    batch: Batch
    users: Int[Array, " B"]
    edges: BatchEdges
    first_row: Int[Array, ""]
    game: GameDraws
    generator_critic: Key[Array, ""]


def draw(setup: Setup, key: Key[Array, ""], inputs: Inputs) -> Draws:
    """The draws of a step, whose key it is."""
    keys = jax.random.split(key, 7)
    chosen, n_items = setup.config.sampling, setup.sizes.n_items
    how = chosen.by, chosen.negatives
    alpha_shape = (chosen.batch_size, len(inputs.features))
    return Draws(
        batch=sample_batch(keys[0], inputs.rows, chosen.batch_size, n_items, *how),
        game=GameDraws(
            noise=keys[1],
            alpha=jax.random.uniform(keys[2], alpha_shape),
            dropout=keys[3],
        ),
        critic_forward=keys[4],
        generator_forward=keys[4] if setup.config.train.shared_forward else keys[5],
        generator_critic=keys[6],
    )


def share_batch(setup: Setup, draws: Draws, inputs: Inputs) -> Share:
    """This device's part of the batch, with its users' interactions."""
    axis = setup.axis
    batch, alpha = share_of((draws.batch, draws.game.alpha), axis)
    return Share(
        batch=batch._replace(users=inputs.rows.of_users(batch.users)),
        users=batch.users,
        edges=batch_edges(inputs.rows, batch.users, setup.sizes.batch_edges),
        first_row=axis_index(axis) * batch.users.shape[0],
        game=draws.game._replace(alpha=alpha),
        generator_critic=draws.generator_critic,
    )
