"""Pairwise ranking loss and the L2 terms."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.norms import inverse_norm
from mmssl_jax.parallel import psum


def bpr_loss(
    users: Float[Array, "B D"], positives: Float[Array, "B D"], negatives: Float[Array, "B D"]
) -> Float[Array, ""]:
    """Mean of -log sigmoid(e_u . e_i - e_u . e_j) over triples (u, i, j)."""
    margin = jnp.sum(users * (positives - negatives), axis=1)
    return -jnp.mean(jax.nn.log_sigmoid(margin))


def embedding_l2(*vectors: Float[Array, "B D"]) -> Float[Array, ""]:
    """Sum of |e|^2 / 2 over the batch's vectors, per triple."""
    squares = jnp.stack([jnp.sum(x * x) for x in vectors])
    return jnp.sum(squares) / (2 * vectors[0].shape[0])


def frobenius_norm(rows: Float[Array, "B D"], axis: str | None = None) -> Float[Array, ""]:
    """Square root of the sum of squares over the rows of all devices; its gradient at 0 is 0."""
    squared = psum(jnp.sum(rows * rows), axis)
    return squared * inverse_norm(squared)
