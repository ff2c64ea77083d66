"""Pairwise ranking loss and the L2 terms."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.model.row_blocks import map_row_blocks


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


def feature_l2(
    feature_user: dict[str, Float[Array, "U D"]], feature_item: dict[str, Float[Array, "I D"]]
) -> Float[Array, ""]:
    """Sum of |f|^2 / 2 over all nodes and modalities, per item."""
    n_items = next(iter(feature_item.values())).shape[0]
    # Row by row: the squares of all entries would be kept from where their norms are taken to here.
    by_row = [
        map_row_blocks(_squared_norms, None, x)
        for x in (*feature_user.values(), *feature_item.values())
    ]
    return jnp.sum(jnp.stack([jnp.sum(squares) for squares in by_row])) / (2 * n_items)


def _squared_norms(_: None, x: Float[Array, "N D"]) -> Float[Array, " N"]:
    return jnp.sum(x * x, axis=-1)
