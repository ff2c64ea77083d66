"""The randomness of a training step, and one device's share of its batch."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int, Key

from mmssl_jax.config import Config
from mmssl_jax.graph.rows import BatchEdges, batch_edges
from mmssl_jax.losses.adversarial import GameDraws
from mmssl_jax.parallel import device_index, share_of
from mmssl_jax.training.sampling import Batch, sample_batch
from mmssl_jax.training.state import Inputs, Sizes


class Draws(NamedTuple):
    """All randomness of one step, for the whole batch of all devices."""

    batch: Batch
    game: GameDraws
    critic_forward: Key[Array, ""]  # feature dropout of the critic's forward pass
    generator_forward: Key[Array, ""]
    generator_critic: Key[Array, ""]  # the critic's dropout in the generator's loss


class Share(NamedTuple):
    """One device's part of a batch."""

    batch: Batch
    alpha: Float[Array, "B M"]
    edges: BatchEdges
    first_row: Int[Array, ""]


def draw(
    key: Key[Array, ""], step: Int[Array, ""], inputs: Inputs, config: Config, sizes: Sizes
) -> Draws:
    """The draws of a step; they depend on the key and the step alone."""
    keys = jax.random.split(jax.random.fold_in(key, step), 7)
    batch_size, n_modalities = config.sampling.batch_size, len(inputs.features)
    return Draws(
        batch=sample_batch(keys[0], inputs.rows, batch_size, sizes.n_items, config.sampling.by),
        game=GameDraws(
            noise=keys[1],
            alpha=jax.random.uniform(keys[2], (batch_size, n_modalities)),
            dropout=keys[3],
        ),
        critic_forward=keys[4],
        generator_forward=keys[4] if config.train.shared_forward else keys[5],
        generator_critic=keys[6],
    )


def share_batch(draws: Draws, inputs: Inputs, sizes: Sizes, axis: str | None) -> Share:
    """This device's part of the batch, with its users' interactions."""
    batch, alpha = share_of((draws.batch, draws.game.alpha), axis)
    return Share(
        batch=batch,
        alpha=alpha,
        edges=batch_edges(inputs.rows, batch.users, sizes.batch_edges),
        first_row=device_index(axis) * batch.users.shape[0],
    )


def on_this_device(key: Key[Array, ""], axis: str | None) -> Key[Array, ""]:
    """A key of this device's own, for masks over its share of the rows."""
    return key if axis is None else jax.random.fold_in(key, device_index(axis))
