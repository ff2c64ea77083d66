"""What a hidden layer of the critic does behind its product, with gradients written by hand.

Problem: automatic differentiation of a normalisation, twice for the gradient penalty, passes over
the layer's arrays [B, H] many times. Remedy: first and second gradients by their formulas, which
pass over them as few times as possible. Effect: benchmarks/README.md.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmssl_jax.methods.mmssl.fast.dropout import drop
from mmssl_jax.parallel import pmean

_EPSILON = 1e-5

Keep = Bool[Array, "B C"] | None


class Activation(NamedTuple):
    """Settings of `activate`.

    slope: of the leaky ReLU below zero.
    norm: whether it standardises per row (layer) or per unit over the batch of all devices (batch).
    axis: the devices' name, or None.
    rate: of dropout.
    """

    slope: float
    norm: Literal["layer", "batch"]
    axis: str | None
    rate: float


class Statistics(NamedTuple):
    """Of h = leaky_relu(x): its mean, and r = 1 / sqrt(its variance + 1e-5); [1, C] or [B, 1]."""

    mean: Float[Array, "..."]
    r: Float[Array, "..."]


def activate(
    settings: Activation,
    x: Float[Array, "B C"],
    scale: Float[Array, " C"],
    shift: Float[Array, " C"],
    keep: Keep,
) -> Float[Array, "B C"]:
    """y = drop(scale z + shift), z = (h - mean) / sqrt(var + 1e-5) of h = leaky_relu(x).

    The gradient in x may be differentiated once more, as a gradient penalty needs. All arrays are of
    one float type.

    Args:
      keep: what dropout leaves, divided by 1 - rate; None leaves all as it is.
    Raises NotImplementedError where the gradients in scale or shift are differentiated, or a
    gradient a third time: there what depends on x through the mean and the variance would be lost.
    """
    return _activate(settings, x, scale, shift, keep)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _activate(
    settings: Activation,
    x: Float[Array, "B C"],
    scale: Float[Array, " C"],
    shift: Float[Array, " C"],
    keep: Keep,
) -> tuple[Float[Array, "B C"], Statistics]:
    """y and the statistics. Gradients take no cotangents of these: they see themselves to what
    depends on x through them."""
    h = jax.nn.leaky_relu(x, settings.slope)
    mean = _mean(settings, h)
    statistics = Statistics(mean, jax.lax.rsqrt(_mean(settings, (h - mean) ** 2) + _EPSILON))
    z = _standardize(settings, x, statistics)
    return drop(z * scale[None, :] + shift[None, :], keep, settings.rate), statistics


def _activate_forward(
    settings: Activation,
    x: Float[Array, "B C"],
    scale: Float[Array, " C"],
    shift: Float[Array, " C"],
    keep: Keep,
) -> tuple[tuple[Float[Array, "B C"], Statistics], tuple]:
    y, statistics = _activate(settings, x, scale, shift, keep)
    return (y, statistics), (x, statistics, scale, keep)


def _activate_backward(settings: Activation, residuals: tuple, cotangents: tuple) -> tuple:
    (x, statistics, scale, keep), (of_output, _) = residuals, cotangents
    of_y = drop(of_output, keep, settings.rate)
    of_scale = jnp.sum(of_y * _standardize(settings, x, statistics), axis=0)
    of_x = _pull_back(settings, x, statistics, scale, keep, of_output)
    return of_x, _final(of_scale), _final(jnp.sum(of_y, axis=0)), None


_activate.defvjp(_activate_forward, _activate_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pull_back(
    settings: Activation,
    x: Float[Array, "B C"],
    statistics: Statistics,
    scale: Float[Array, " C"],
    keep: Keep,
    cotangent: Float[Array, "B C"],
) -> Float[Array, "B C"]:
    """The gradient in x for a cotangent of y, with a gradient of its own.

    With g = scale drop(cotangent), and <.> the mean of what is standardised together, that of h is
    r (g - <g> - z <g z>).
    """
    return _pull_back_forward(settings, x, statistics, scale, keep, cotangent)[0]


def _pull_back_forward(
    settings: Activation,
    x: Float[Array, "B C"],
    statistics: Statistics,
    scale: Float[Array, " C"],
    keep: Keep,
    cotangent: Float[Array, "B C"],
) -> tuple[Float[Array, "B C"], tuple]:
    z = _standardize(settings, x, statistics)
    of_y = drop(cotangent, keep, settings.rate)
    along, across = _scaled_mean(settings, of_y, scale), _scaled_mean(settings, of_y * z, scale)
    of_h = statistics.r * (of_y * scale[None, :] - along - z * across)
    residuals = x, statistics, scale, keep, cotangent, along, across
    return _through_relu(settings, x, of_h), residuals


def _pull_back_backward(
    settings: Activation, residuals: tuple, cotangent: Float[Array, "B C"]
) -> tuple:
    """With <g> along and <g z> across, and for a cotangent u of h's gradient, that of g is
    r (u - <u> - z <u z>) and that of h itself
    r^2 (z (3 <u z> <g z> - <u g> + <u> <g>) - <g z> (u - <u>) - <u z> (g - <g>))."""
    x, statistics, scale, keep, of_output, along, across = residuals
    z, r = _standardize(settings, x, statistics), statistics.r
    u, of_y = _through_relu(settings, x, cotangent), drop(of_output, keep, settings.rate)
    g = of_y * scale[None, :]
    u_along, u_across = _mean(settings, u), _mean(settings, u * z)
    of_g = r * (u - u_along - z * u_across)
    both = 3 * u_across * across - _scaled_mean(settings, u * of_y, scale) + u_along * along
    of_h = r**2 * (z * both - across * (u - u_along) - u_across * (g - along))
    return (
        _final(_through_relu(settings, x, of_h)),
        jax.tree.map(jnp.zeros_like, statistics),  # in the gradient of x already
        _final(jnp.sum(of_y * of_g, axis=0)),
        None,
        _final(drop(scale[None, :] * of_g, keep, settings.rate)),
    )


_pull_back.defvjp(_pull_back_forward, _pull_back_backward)


@jax.custom_vjp
def _final(gradient: Float[Array, "..."]) -> Float[Array, "..."]:
    """A gradient whose own gradient would not be whole."""
    return gradient


def _final_forward(gradient: Float[Array, "..."]) -> tuple[Float[Array, "..."], None]:
    return gradient, None


def _final_backward(_: None, cotangent: Float[Array, "..."]) -> tuple[Float[Array, "..."]]:
    raise NotImplementedError(
        "a derivative of `activate` that is not implemented: its gradient in x can be "
        "differentiated once, the gradients in scale and shift, and second gradients, cannot"
    )


_final.defvjp(_final_forward, _final_backward)


def _standardize(
    settings: Activation, x: Float[Array, "B C"], statistics: Statistics
) -> Float[Array, "B C"]:
    """z = (leaky_relu(x) - mean) r."""
    return (jax.nn.leaky_relu(x, settings.slope) - statistics.mean) * statistics.r


def _mean(settings: Activation, x: Float[Array, "B C"]) -> Float[Array, "..."]:
    """Means of what is standardised together, [B, 1] or [1, C]."""
    if settings.norm == "layer":
        return jnp.mean(x, axis=1, keepdims=True)
    return pmean(jnp.mean(x, axis=0, keepdims=True), settings.axis)


def _scaled_mean(
    settings: Activation, x: Float[Array, "B C"], scale: Float[Array, " C"]
) -> Float[Array, "..."]:
    """The mean of scale x."""
    if settings.norm == "layer":
        return _mean(settings, x * scale[None, :])
    return _mean(settings, x) * scale[None, :]  # a sum that the gradient in scale takes as well


def _through_relu(
    settings: Activation, x: Float[Array, "B C"], of_h: Float[Array, "B C"]
) -> Float[Array, "B C"]:
    """h's gradient times the slope at x: the gradient in x. The same turns a cotangent of the
    gradient in x into one of h's gradient."""
    return jnp.where(x >= 0, of_h, settings.slope * of_h)
