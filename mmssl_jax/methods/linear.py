"""A linear layer as a pair of arrays."""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


class Linear(NamedTuple):
    """x kernel + bias."""

    kernel: Float[Array, "F D"]
    bias: Float[Array, " D"]


def xavier_kernel(key: Key[Array, ""], n_in: int, n_out: int) -> Float[Array, "F D"]:
    """A Xavier-uniform matrix [n_in, n_out]."""
    return nn.initializers.xavier_uniform()(key, (n_in, n_out))


def new_linear(key: Key[Array, ""], n_in: int, n_out: int) -> Linear:
    """A Xavier-uniform kernel and no bias yet."""
    kernel = xavier_kernel(key, n_in, n_out)
    return Linear(kernel, jnp.zeros(n_out, kernel.dtype))


def new_linears(key: Key[Array, ""], n_in: Mapping[str, int], n_out: int) -> dict[str, Linear]:
    """{name: a new layer from n_in[name] to n_out}."""
    keys = jax.random.split(key, len(n_in))
    return {m: new_linear(k, n, n_out) for k, (m, n) in zip(keys, n_in.items(), strict=True)}


def linear(layer: Linear, x: Float[Array, "N F"]) -> Float[Array, "N D"]:
    """x kernel + bias."""
    return x @ layer.kernel + layer.bias[None, :]
