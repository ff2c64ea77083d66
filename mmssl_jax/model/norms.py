"""Row normalisations with finite gradients at zero rows, and batch statistics over devices."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.parallel import mean_over


def inverse_norm(squared_norm: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """s^-1/2 where s > 0, else 0; the square root never sees a zero, so gradients stay finite.

    Norms below 1e-12 count as zero.
    """
    positive = squared_norm > 1e-24
    return jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, squared_norm, 1.0)), 0.0)


def unit_rows(x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
    """x / ||x|| along the last axis; a zero row stays zero, with zero gradient."""
    return x * inverse_norm(jnp.sum(x * x, axis=-1, keepdims=True))


def standardize_batch(
    x: Float[Array, "B C"], axis: str | None, epsilon: float = 1e-5
) -> Float[Array, "B C"]:
    """(x - mean) / sqrt(var + epsilon) per channel over the whole batch, with biased variance."""
    mean = mean_over(jnp.mean(x, axis=0), axis)
    centred = x - mean[None, :]
    variance = mean_over(jnp.mean(centred * centred, axis=0), axis)
    return centred * jax.lax.rsqrt(variance + epsilon)[None, :]
