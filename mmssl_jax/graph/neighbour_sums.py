"""Sums over the k neighbours of every item, with gradients to the weights of these too.

One neighbour of all items at a time: all at once would be k vectors per item, forward and backward.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmssl_jax.norms import unit_rows


def neighbour_cosines(x: Float[Array, "I D"], items: Int[Array, "I K"]) -> Float[Array, "I K"]:
    """The cosine of each row with the rows of its neighbours; 0 where one is zero."""
    unit = unit_rows(x)
    cosine = jax.checkpoint(lambda column: jnp.sum(unit * unit[column], axis=1))
    return jax.lax.map(cosine, items.T).T


def neighbour_sums(
    x: Float[Array, "I D"], items: Int[Array, "I K"], weights: Float[Array, "I K"]
) -> Float[Array, "I D"]:
    """y_i = sum over k of weights[i, k] x[items[i, k]]."""

    @jax.checkpoint
    def add(total: Array, column: tuple[Array, Array]) -> tuple[Array, None]:
        item, weight = column
        return total + weight[:, None] * x[item], None

    return jax.lax.scan(add, jnp.zeros_like(x), (items.T, weights.T))[0]
