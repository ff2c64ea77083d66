"""The k best items of a block of users, in blocks of items, with or without those seen already."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmssl_jax.graph.rows import RowPairs
from mmssl_jax.precision import Precision, matmul

# (scores [B, N] of items first .. first + N - 1, first) -> scores [B, N]
Adjust = Callable[[Float[Array, "B N"], Int[Array, ""]], Float[Array, "B N"]]


def top_k_in_blocks(
    users: Float[Array, "B D"],
    items: Float[Array, "I D"],
    k: int,
    block_items: int,
    adjust: Adjust,
    precision: Precision = "float32",
) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """Scores and items of each user's k largest inner products, best first; ties by item.

    Args:
      k: at most I.
      block_items: items scored at once; the memory is O(B block_items).
      adjust: changes a block's scores before they are ranked, to -inf for an item that must not be
        in the list. A list that is not filled ends in entries of score -inf.
    """
    n_items = items.shape[0]
    if n_items <= block_items:
        with jax.named_scope("scores"):
            scores = matmul(users, items.T, precision)
        scores = adjust(scores, jnp.int32(0))
        with jax.named_scope("top_k"):
            best, ids = jax.lax.top_k(scores, k)
            return best, ids

    n_blocks = -(-n_items // block_items)
    padded = jnp.pad(items, ((0, n_blocks * block_items - n_items), (0, 0)))
    blocks = padded.reshape(n_blocks, block_items, -1)
    firsts = jnp.arange(n_blocks, dtype=jnp.int32) * block_items

    def merge(so_far: tuple[Array, Array], block: tuple[Array, Array]) -> tuple[tuple, None]:
        first, of_block = block
        with jax.named_scope("scores"):
            scores = matmul(users, of_block.T, precision)
        scores = adjust(scores, first)
        item = first + jnp.arange(block_items, dtype=jnp.int32)
        scores = jnp.where(item[None, :] < n_items, scores, -jnp.inf)
        with jax.named_scope("top_k"):
            top, place = jax.lax.top_k(scores, min(k, block_items))
            # Earlier items come first, so that they win ties.
            scores = jnp.concatenate([so_far[0], top], axis=1)
            ids = jnp.concatenate([so_far[1], first + place], axis=1)
            kept, chosen = jax.lax.top_k(scores, k)
            return (kept, jnp.take_along_axis(ids, chosen, axis=1)), None

    n_users = users.shape[0]
    nothing = jnp.full((n_users, k), -jnp.inf), jnp.zeros((n_users, k), jnp.int32)
    return jax.lax.scan(merge, nothing, (firsts, blocks))[0]


def top_k_unseen(
    user_vectors: Float[Array, "B D"],
    item_vectors: Float[Array, "I D"],
    seen: RowPairs,
    k: int,
    block_items: int = 32768,
    precision: Precision = "float32",
) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """Scores and items of each user's k best items, best first, leaving out the items already seen.

    The score is the inner product, and equal scores are ordered by item. A user with fewer than k
    unseen items has the rest of the list filled with entries of score -inf, which are no
    recommendations. `block_items` are scored at once. Raises ValueError unless 1 <= k <= I.
    """
    n_items = item_vectors.shape[0]
    if not 1 <= k <= n_items:
        raise ValueError(f"k is {k}, but a list of {n_items} items needs 1 <= k <= {n_items}")

    def leave_out_seen(scores: Float[Array, "B N"], first: Int[Array, ""]) -> Float[Array, "B N"]:
        return without_seen(scores, seen._replace(items=seen.items - first))

    return top_k_in_blocks(user_vectors, item_vectors, k, block_items, leave_out_seen, precision)


def without_seen(scores: Float[Array, "B N"], seen: RowPairs) -> Float[Array, "B N"]:
    """The scores, -inf at the seen pairs; pairs outside the columns change nothing."""
    with jax.named_scope("mask_seen"):
        # A minimum, not an assignment: padding then changes nothing, wherever it points.
        ceiling = jnp.where(seen.mask, -jnp.inf, jnp.inf).astype(scores.dtype)
        column = jnp.where(seen.items >= 0, seen.items, scores.shape[1])
        return scores.at[seen.rows, column].min(ceiling, mode="drop")
