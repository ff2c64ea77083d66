"""A graph autoencoder's loss on the modality features, which the ablation puts for the game."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.method import Vectors
from mmssl_jax.methods.trained import of_batch
from mmssl_jax.nodes import Nodes
from mmssl_jax.sampling import Batch


def edge_likelihood_loss(
    feature_user: dict[str, Float[Array, "U D"]],
    feature_item: dict[str, Float[Array, "I D"]],
    batch: Batch,
    nodes: Nodes | None = None,
) -> Float[Array, ""]:
    """Mean over triples (u, i, j) and modalities of -log s(f_u . f_i) - log(1 - s(f_u . f_j)).

    s is the sigmoid: the edge (u, i) is there, the drawn one (u, j) is not.
    """
    terms = []
    for modality, of_users in feature_user.items():
        vectors = of_batch(Vectors(of_users, feature_item[modality]), batch, nodes)
        users, positives, negatives = vectors
        present = jnp.sum(users * positives, axis=1)
        absent = jnp.sum(users * negatives, axis=1)
        terms.append(-jax.nn.log_sigmoid(present) - jax.nn.log_sigmoid(-absent))
    return jnp.mean(jnp.stack(terms))
