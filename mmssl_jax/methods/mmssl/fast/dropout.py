"""Dropout whose masks need a quarter of the usual random words."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Bool, Float, Key


def keep_mask(key: Key[Array, ""], rate: float, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """True with probability 1 - `rate`, to within 2^-17, independently at each place.

    Problem: `jax.random.bernoulli` does the work of 64 bits for each place, which takes long on a
    CPU for the masks of a wide critic. Remedy: 16 bits are enough, so that each block of the
    generator serves four places.
    """
    size = 1
    for length in shape:
        size *= length
    counts = jnp.arange(2 * -(-size // 4), dtype=jnp.uint32)
    words = threefry_2x32(jax.random.key_data(key), counts)
    draws = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size]
    return (draws >= round(rate * 2**16)).reshape(shape)


class KeepMask(nn.Module):
    """The mask of one dropout; its rng is named `dropout`."""

    rate: float

    @nn.compact
    def __call__(self, shape: tuple[int, ...], deterministic: bool) -> Bool[Array, "..."] | None:
        """None where everything is kept."""
        if deterministic or not self.rate:
            return None
        return keep_mask(self.make_rng("dropout"), self.rate, shape)


def drop(
    x: Float[Array, "*shape"], keep: Bool[Array, "*shape"] | None, rate: float
) -> Float[Array, "*shape"]:
    """x / (1 - rate) where `keep`, else 0; x itself where there is no mask."""
    return x if keep is None else jnp.where(keep, x / (1 - rate), 0)
