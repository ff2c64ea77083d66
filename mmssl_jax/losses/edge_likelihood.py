"""A graph autoencoder's loss on the modality features, which the ablation puts for the game."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def edge_likelihood_loss(
    feature_user: dict[str, Float[Array, "U D"]],
    feature_item: dict[str, Float[Array, "I D"]],
    users: Int[Array, " B"],
    positives: Int[Array, " B"],
    negatives: Int[Array, " B"],
) -> Float[Array, ""]:
    """Mean over triples (u, i, j) and modalities of -log s(f_u . f_i) - log(1 - s(f_u . f_j)).

    s is the sigmoid: the edge (u, i) is there, the drawn one (u, j) is not.
    """
    terms = []
    for modality, of_users in feature_user.items():
        of_items = feature_item[modality]
        present = jnp.sum(of_users[users] * of_items[positives], axis=1)
        absent = jnp.sum(of_users[users] * of_items[negatives], axis=1)
        terms.append(-jax.nn.log_sigmoid(present) - jax.nn.log_sigmoid(-absent))
    return jnp.mean(jnp.stack(terms))
