"""Distances of pairs by cosine, and their mean over the pairs that there are."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmssl_jax.norms import unit_rows
from mmssl_jax.parallel import pmean


def cosine_distance(x: Float[Array, "B D"], y: Float[Array, "B D"]) -> Float[Array, " B"]:
    """1 - cosine of each pair of rows; 1 where one of them is 0."""
    return 1.0 - jnp.sum(unit_rows(x) * unit_rows(y), axis=1)


def mean_of_present(
    values: Float[Array, " B"], present: Bool[Array, " B"], axis: str | None
) -> Float[Array, ""]:
    """Mean over the rows of all devices that are present, 0 if there is none.

    It is the mean over the devices of what each of them returns.
    """
    count = pmean(jnp.sum(present.astype(values.dtype)), axis)
    return jnp.sum(jnp.where(present, values, 0.0)) / jnp.where(count > 0, count, 1.0)
