"""Dropout whose masks need a quarter of the usual random words."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Bool, Float, Int, Key


def keep_mask(
    key: Key[Array, ""], rate: float, rows: Int[Array, " R"], width: int
) -> Bool[Array, "R W"]:
    """True with probability 1 - `rate`, to within 2^-17, independently at each place.

    rows: the number of each row among all rows, of this device and of others. A row's draws depend
    on the key and its number alone, so that a run has the same masks on any number of devices.

    Problem: `jax.random.bernoulli` does the work of 64 bits for each place, which takes long on a
    CPU for the masks of a wide critic. Remedy: 16 bits are enough, so that each block of the
    generator serves four places.
    """
    columns = jnp.arange(-(-width // 4), dtype=jnp.uint32)
    places = jnp.meshgrid(rows.astype(jnp.uint32), columns, indexing="ij")
    words = threefry_2x32(jax.random.key_data(key), jnp.stack(places))
    draws = jax.lax.bitcast_convert_type(words, jnp.uint16)  # [2, R, W / 4, 2]
    by_row = jnp.concatenate(list(draws.reshape(2, len(rows), -1)), axis=1)
    return by_row[:, :width] >= round(rate * 2**16)


class KeepMask(nn.Module):
    """The mask of one dropout; its rng is named `dropout`."""

    rate: float

    @nn.compact
    def __call__(
        self, rows: Int[Array, " R"], width: int, deterministic: bool
    ) -> Bool[Array, "R W"] | None:
        """None where everything is kept. rows: as in `keep_mask`."""
        if deterministic or not self.rate:
            return None
        return keep_mask(self.make_rng("dropout"), self.rate, rows, width)


def drop(
    x: Float[Array, "*shape"], keep: Bool[Array, "*shape"] | None, rate: float
) -> Float[Array, "*shape"]:
    """x / (1 - rate) where `keep`, else 0; x itself where there is no mask."""
    return x if keep is None else jnp.where(keep, x / (1 - rate), 0)
