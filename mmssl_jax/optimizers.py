"""optax's Adam and AdamW, at the memory of their moments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from mmssl_jax.blocks import Block, fold_blocks
from mmssl_jax.config import OptimConfig
from mmssl_jax.parallel import axis_size, pmean

_EPSILON = 1e-8
# Rows whose moments are renewed at once.
ROWS_AT_ONCE = 2**14


def adamw(config: OptimConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """AdamW with rate lr * lr_decay^(epoch/50), the epoch counted in whole epochs from 0."""

    def rate(count: Int[Array, ""]) -> Float[Array, ""]:
        return config.lr * config.lr_decay ** ((count // steps_per_epoch) / 50)

    return optax.chain(
        scale_by_moments(0.9, 0.999),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(rate),
    )


def adam(lr: float, beta_1: float = 0.9, beta_2: float = 0.999) -> optax.GradientTransformation:
    """Adam with a constant rate."""
    return optax.chain(scale_by_moments(beta_1, beta_2), optax.scale_by_learning_rate(lr))


def scale_by_moments(beta_1: float, beta_2: float) -> optax.GradientTransformation:
    """optax's `scale_by_adam`, with the moments of tall arrays renewed in blocks of rows.

    Problem: XLA computes the new moments twice, once more inside the new parameters, and for that
    keeps a copy of the old ones, and the gradients, until the end of the step. Remedy: it does not
    compute the result of a loop twice. Effect: a step over a million items asks for 15.4 GiB in
    place of 18.2 (benchmarks.pieces).
    """
    adam = optax.scale_by_adam(beta_1, beta_2, _EPSILON)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params

        def new_moments(gradient: Array, mean: Array, square: Array) -> tuple[Array, Array]:
            def one_block(carry: tuple[Array, Array], block: Block) -> tuple[Array, Array]:
                old = state._replace(mu=block.cut(carry[0]), nu=block.cut(carry[1]))
                new = adam.update(block.cut(gradient), old)[1]
                return block.put(carry, block.only_new((new.mu, new.nu), (old.mu, old.nu)))

            if not gradient.ndim:
                new = adam.update(gradient, state._replace(mu=mean, nu=square))[1]
                return new.mu, new.nu
            return fold_blocks(gradient.shape[0], ROWS_AT_ONCE, (mean, square), one_block)

        moments = jax.tree.map(new_moments, gradients, state.mu, state.nu)
        mu, nu = jax.tree.transpose(
            jax.tree.structure(gradients), jax.tree.structure((0, 0)), moments
        )
        state = state._replace(count=optax.safe_increment(state.count), mu=mu, nu=nu)
        means = optax.tree.bias_correction(mu, beta_1, state.count)
        squares = optax.tree.bias_correction(nu, beta_2, state.count)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + _EPSILON), means, squares)
        return updates, state

    return optax.GradientTransformation(adam.init, update)


class Descent(NamedTuple):
    """Parameters, the moments of their optimizer, and what else a method carries along."""

    params: PyTree
    moments: optax.OptState
    carried: PyTree = ()


def descend(
    loss: Callable[[PyTree], tuple[Float[Array, ""], dict[str, Float[Array, ""]]]],
    state: Descent,
    optimizer: optax.GradientTransformation,
    axis: str | None,
    is_spread: PyTree | None = None,
) -> tuple[Descent, dict[str, Float[Array, ""]]]:
    """One step down the gradient of `loss`, the mean over the devices of `axis`.

    loss: of the parameters, on this device's share of a batch; returns it and what is logged.
    is_spread: for each array of the parameters, whether its rows are spread over the devices; None
      for none.
    """
    gradients, metrics = jax.grad(loss, has_aux=True)(state.params)
    gradients = mean_gradients(gradients, axis, is_spread)
    updates, moments = optimizer.update(gradients, state.moments, state.params)
    params = optax.apply_updates(state.params, updates)
    return state._replace(params=params, moments=moments), pmean(metrics, axis)


def mean_gradients(gradients: PyTree, axis: str | None, is_spread: PyTree | None = None) -> PyTree:
    """Gradients of the mean over devices of their losses, from each device's own.

    What the losses of all devices make of a row that lies here has been added up on the way back,
    so only the division by the number of devices is left for arrays whose rows are spread.
    """
    if axis is None or is_spread is None:
        return pmean(gradients, axis)
    return jax.tree.map(
        lambda gradient, spread: gradient / axis_size(axis) if spread else pmean(gradient, axis),
        gradients,
        is_spread,
    )
