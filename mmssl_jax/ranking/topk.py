"""The K best unseen items of a block of users."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmssl_jax.graph.topk import top_k_in_blocks
from mmssl_jax.precision import Precision


def top_k_unseen(
    user_vectors: Float[Array, "B D"],
    item_vectors: Float[Array, "I D"],
    seen_rows: Int[Array, " S"],
    seen_items: Int[Array, " S"],
    seen_mask: Bool[Array, " S"],
    k: int,
    block_items: int = 32768,
    precision: Precision = "float32",
) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """Scores and items of each user's k best items, best first, leaving out the items already seen.

    The score is the inner product. Pair s leaves item `seen_items[s]` out of the list of row
    `seen_rows[s]` where `seen_mask[s]` is true; the other pairs are padding. Equal scores are
    ordered by item. A user with fewer than k unseen items has the rest of the list filled with
    entries of score -inf, which are no recommendations. `block_items` are scored at once. Raises
    ValueError unless 1 <= k <= I.
    """
    n_items = item_vectors.shape[0]
    if not 1 <= k <= n_items:
        raise ValueError(f"k is {k}, but a list of {n_items} items needs 1 <= k <= {n_items}")

    def leave_out_seen(scores: Float[Array, "B N"], first: Int[Array, ""]) -> Float[Array, "B N"]:
        with jax.named_scope("mask_seen"):
            column = seen_items - first
            # A minimum, not an assignment: padding then changes nothing, wherever it points.
            ceiling = jnp.where(seen_mask, -jnp.inf, jnp.inf).astype(scores.dtype)
            column = jnp.where(column >= 0, column, scores.shape[1])
            return scores.at[seen_rows, column].min(ceiling, mode="drop")

    return top_k_in_blocks(user_vectors, item_vectors, k, block_items, leave_out_seen, precision)
