"""The K best unseen items of a block of users."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


def top_k_unseen(
    user_vectors: Float[Array, "B D"],
    item_vectors: Float[Array, "I D"],
    seen_rows: Int[Array, " S"],
    seen_items: Int[Array, " S"],
    seen_mask: Bool[Array, " S"],
    k: int,
) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """Scores and items of each user's k best items, best first, leaving out the items already seen.

    The score is the inner product, in float32. Pair s leaves item `seen_items[s]` out of the list
    of row `seen_rows[s]` where `seen_mask[s]` is true; the other pairs are padding. Equal scores
    are ordered by item. A user with fewer than k unseen items has the rest of the list filled with
    entries of score -inf, which are no recommendations. Raises ValueError unless 1 <= k <= I.
    """
    n_items = item_vectors.shape[0]
    if not 1 <= k <= n_items:
        raise ValueError(f"k is {k}, but a list of {n_items} items needs 1 <= k <= {n_items}")
    with jax.named_scope("scores"):
        scores = jnp.matmul(user_vectors, item_vectors.T, preferred_element_type=jnp.float32)
    with jax.named_scope("mask_seen"):
        # A minimum, not an assignment: padding then changes nothing, wherever it points.
        ceiling = jnp.where(seen_mask, -jnp.inf, jnp.inf).astype(scores.dtype)
        scores = scores.at[seen_rows, seen_items].min(ceiling)
    with jax.named_scope("top_k"):
        best_scores, best_items = lax.top_k(scores, k)
    return best_scores, best_items
