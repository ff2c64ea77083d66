"""Rankings without a model, as vectors for the same evaluator: the floor a model has to beat."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def popularity_vectors(
    train_edges: Int[np.ndarray, "E 2"], n_users: int, n_items: int
) -> tuple[Float[Array, "U 1"], Float[Array, "I 1"]]:
    """Vectors that rank the items by their number of training interactions, alike for all users."""
    degrees = np.bincount(train_edges[:, 1], minlength=n_items).astype(np.float32)
    return jnp.ones((n_users, 1)), jnp.asarray(degrees)[:, None]


def random_vectors(
    seed: int, n_users: int, n_items: int, width: int = 8
) -> tuple[Float[Array, "U D"], Float[Array, "I D"]]:
    """Seeded normal vectors of D = `width`: every user gets a random ranking of their own.

    The expected recall@k of a user is k / (number of unseen items).
    """
    user_key, item_key = jax.random.split(jax.random.key(seed))
    return (
        jax.random.normal(user_key, (n_users, width)),
        jax.random.normal(item_key, (n_items, width)),
    )
