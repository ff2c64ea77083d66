"""Row normalisations with finite gradients at zero rows."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def inverse_norm(squared_norm: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """s^-1/2 where s > 0, else 0; the square root never sees a zero, so gradients stay finite.

    Norms below 1e-12 count as zero.
    """
    positive = squared_norm > 1e-24
    return jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, squared_norm, 1.0)), 0.0)


def unit_rows(x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
    """x / ||x|| along the last axis; a zero row stays zero, with zero gradient."""
    return x * inverse_norm(jnp.sum(x * x, axis=-1, keepdims=True))
