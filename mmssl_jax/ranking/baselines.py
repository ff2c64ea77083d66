"""Rankings without a model, as vectors for the same evaluator: the floor a model has to beat."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from mmssl_jax.method import Vectors
from mmssl_jax.norms import unit_rows

RANDOM_WIDTH = 64


def popularity_vectors(train_edges: Int[np.ndarray, "E 2"], n_users: int, n_items: int) -> Vectors:
    """Vectors that rank the items by their number of training interactions, alike for all users."""
    degrees = np.bincount(train_edges[:, 1], minlength=n_items).astype(np.float32)
    return Vectors(jnp.ones((n_users, 1)), jnp.asarray(degrees)[:, None])


def random_vectors(seed: int, n_users: int, n_items: int, width: int = RANDOM_WIDTH) -> Vectors:
    """Seeded vectors of D = `width`: every user gets a random ranking of their own.

    Users are normal, items of length 1, so that no item scores high with all users. The expected
    recall@k of a user is k / (number of unseen items). What remains: the scores of two users
    correlate by the cosine of their vectors, which is 0 on average and about D^-1/2 in size.
    """
    user_key, item_key = jax.random.split(jax.random.key(seed))
    return Vectors(
        jax.random.normal(user_key, (n_users, width)),
        unit_rows(jax.random.normal(item_key, (n_items, width))),
    )
