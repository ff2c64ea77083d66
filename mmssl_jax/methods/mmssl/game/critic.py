"""The critic. Its first layer is linear, so callers hand it `rows @ first_kernel`, never rows."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmssl_jax.methods.mmssl.config import CriticConfig
from mmssl_jax.methods.mmssl.fast.dropout import KeepMask, drop
from mmssl_jax.nodes import Nodes
from mmssl_jax.parallel import pmean
from mmssl_jax.precision import Precision, dot_general

# U(-1/sqrt(n), 1/sqrt(n)) for n inputs.
_fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def hidden_widths(config: CriticConfig, n_items: int) -> tuple[int, ...]:
    """Units of each hidden layer; a setting below 1 is a fraction of the items, at least 1 unit."""
    return tuple(
        max(1, int(width * n_items)) if width < 1 else int(width) for width in config.hidden
    )


class Standardize(nn.Module):
    """z = (x - mean) / sqrt(var + 1e-5), then scale z + bias.

    Mean and variance are of each row (layer), or of each unit over the batch of all devices
    (batch).
    Flax's own BatchNorm would keep running means as well, which nothing reads.
    """

    kind: Literal["layer", "batch"]
    axis: str | None

    @nn.compact
    def __call__(self, x: Float[Array, "B C"]) -> Float[Array, "B C"]:
        def mean(values: Float[Array, "B C"]) -> Float[Array, "..."]:
            if self.kind == "layer":
                return jnp.mean(values, axis=1, keepdims=True)
            return pmean(jnp.mean(values, axis=0, keepdims=True), self.axis)

        centred = x - mean(x)
        z = centred * jax.lax.rsqrt(mean(centred**2) + 1e-5)
        scale = self.param("scale", nn.initializers.ones, (x.shape[1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[1],))
        return z * scale[None, :] + bias[None, :]


class Critic(nn.Module):
    """Dense -> leaky ReLU -> norm -> dropout for each hidden width, then one score per row.

    The first kernel is the parameter `first_kernel` `[I, h]`, of which there are this device's rows
    where rows are spread; `__call__` starts behind it.
    """

    n_items: int
    config: CriticConfig
    axis: str | None = None
    precision: Precision = "float32"
    nodes: Nodes | None = None

    @nn.compact
    def __call__(
        self,
        projection: Float[Array, "B H"],
        deterministic: bool,
        rows: Int[Array, " B"] | None = None,
    ) -> Float[Array, " B"]:
        """Scores rows x from their `projection` x W of the first kernel, without its bias.

        rows: their numbers among the rows of all devices, which key the dropout; None for rows that
        no other device has a part of.
        """
        if rows is None:
            rows = jnp.arange(projection.shape[0])
        widths = hidden_widths(self.config, self.n_items)
        n_rows = self.n_items if self.nodes is None else self.nodes.n_items
        self.param("first_kernel", _fan_in_uniform, (n_rows, widths[0]))
        hidden = projection + self.param("first_bias", nn.initializers.zeros, (widths[0],))[None, :]
        for index, width in enumerate(widths):
            if index:
                dense = nn.Dense(
                    width,
                    kernel_init=_fan_in_uniform,
                    dot_general=dot_general(self.precision),
                    name=f"dense_{index}",
                )
                hidden = dense(hidden)
            norm = Standardize(self.config.norm, self.axis, name=f"norm_{index}")
            hidden = norm(nn.leaky_relu(hidden, self.config.slope))
            rate = float(self.config.dropout[index])
            keep = KeepMask(rate, name=f"Dropout_{index}")(rows, width, deterministic)
            hidden = drop(hidden, keep, rate)
        output = nn.Dense(1, kernel_init=_fan_in_uniform, name="score")(hidden)[:, 0]
        bound = self.config.score_bound
        return bound * jax.nn.sigmoid(output) if bound else output
