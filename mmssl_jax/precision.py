"""Reduced precision of matrix products: rounded operands, float32 sums."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Precision = Literal["float32", "bfloat16", "tensorfloat32"]

# Bits of the mantissa that a product sees; the exponent has eight in all three.
_MANTISSA = {"bfloat16": 7, "tensorfloat32": 10}


def rounded(x: Float[Array, "..."], precision: Precision) -> Float[Array, "..."]:
    """x with the mantissa that `precision` keeps, still in its own type."""
    if precision == "float32":
        return x
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=_MANTISSA[precision])


def matmul(
    a: Float[Array, "N K"], b: Float[Array, "K M"], precision: Precision = "float32"
) -> Float[Array, "N M"]:
    """a b with operands rounded to `precision` and sums in float32.

    Accelerators multiply at that precision; elsewhere the operands are rounded first, so that
    results are alike, but no faster. Gradients multiply at the same precision.
    """
    return jnp.matmul(
        rounded(a, precision),
        rounded(b, precision),
        precision=_asked(precision),
        preferred_element_type=jnp.promote_types(a.dtype, jnp.float32),
    )


def dot_general(precision: Precision) -> Any:
    """A `lax.dot_general` at `precision`, as Flax layers take it."""

    def product(a: Array, b: Array, dimensions: Any, **options: Any) -> Array:
        del options
        return jax.lax.dot_general(
            rounded(a, precision), rounded(b, precision), dimensions, precision=_asked(precision)
        )

    return product


def _asked(precision: Precision) -> str | None:
    # None leaves float32 to the context, which asks for it on every platform.
    return None if precision == "float32" else precision
