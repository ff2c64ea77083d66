"""The critic. Its first layer is linear, so callers hand it `rows @ first_kernel`, never rows."""

import flax.linen as nn
import jax
from jaxtyping import Array, Bool, Float

from mmssl_jax.methods.mmssl.config import CriticConfig
from mmssl_jax.methods.mmssl.fast.dropout import KeepMask
from mmssl_jax.methods.mmssl.fast.hidden_layer import Activation, activate
from mmssl_jax.precision import Precision, dot_general

# U(-1/sqrt(n), 1/sqrt(n)) for n inputs.
_fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def hidden_widths(config: CriticConfig, n_items: int) -> tuple[int, ...]:
    """Units of each hidden layer; a setting below 1 is a fraction of the items, at least 1 unit."""
    return tuple(
        max(1, int(width * n_items)) if width < 1 else int(width) for width in config.hidden
    )


class Activate(nn.Module):
    """`activate` with its scale and shift as parameters."""

    settings: Activation

    @nn.compact
    def __call__(
        self, x: Float[Array, "B C"], keep: Bool[Array, "B C"] | None
    ) -> Float[Array, "B C"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[1],))
        return activate(self.settings, x, scale, bias, keep)


class Critic(nn.Module):
    """Dense -> leaky ReLU -> norm -> dropout for each hidden width, then one score per row.

    The first kernel is the parameter `first_kernel` `[I, h]`; `__call__` starts behind it.
    """

    n_items: int
    config: CriticConfig
    axis: str | None = None
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, projection: Float[Array, "B H"], deterministic: bool) -> Float[Array, " B"]:
        """Scores rows x from their `projection` x W of the first kernel, without its bias."""
        widths = hidden_widths(self.config, self.n_items)
        self.param("first_kernel", _fan_in_uniform, (self.n_items, widths[0]))
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
            rate = float(self.config.dropout[index])
            keep = KeepMask(rate, name=f"Dropout_{index}")(hidden.shape, deterministic)
            settings = Activation(self.config.slope, self.config.norm, self.axis, rate)
            hidden = Activate(settings, name=f"norm_{index}")(hidden, keep)
        output = nn.Dense(1, kernel_init=_fan_in_uniform, name="score")(hidden)[:, 0]
        bound = self.config.score_bound
        return bound * jax.nn.sigmoid(output) if bound else output
