"""The recommendation lists of the users with held-out items, ranked in blocks on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmssl_jax.parallel import in_float32
from mmssl_jax.precision import Precision
from mmssl_jax.ranking.evaluate import UserBlocks, user_blocks
from mmssl_jax.ranking.metrics import relevance_of
from mmssl_jax.ranking.topk import top_k_unseen

NO_ITEM = -1


class Lists(NamedTuple):
    """N users in ascending order, their K best unseen items, and where these are held out.

    items: best first, NO_ITEM where a user has no unseen item left. hits: 1 where the item is
    held out, else 0. held_out_counts: held-out items of each user.
    """

    users: Int[np.ndarray, " N"]
    items: Int[np.ndarray, "N K"]
    hits: Float[np.ndarray, "N K"]
    held_out_counts: Int[np.ndarray, " N"]


def rank_lists(
    vectors: tuple[Float[Array, "U D"], Float[Array, "I D"]],
    seen: Int[np.ndarray, "E 2"],
    held_out: Int[np.ndarray, "n 2"],
    k: int,
    block_users: int,
    precision: Precision = "float32",
) -> Lists:
    """Ranks all items but the seen ones for every user of `held_out`, by inner product.

    vectors: of users and items. seen, held_out: (user, item) pairs, held_out without repetition.
    k: length of the lists, at most I. At most block_users users are scored at once.
    precision: of the scores' operands.
    """

    def one_block(
        user_vectors: Array, item_vectors: Array, block: UserBlocks
    ) -> tuple[Array, Array]:
        scores, items = top_k_unseen(
            user_vectors[block.users],
            item_vectors,
            block.seen_rows,
            block.seen_items,
            block.seen_mask,
            k,
            precision=precision,
        )
        hits = relevance_of(
            scores, items, block.held_out_rows, block.held_out_items, block.held_out_mask
        )
        return jnp.where(scores > -jnp.inf, items, NO_ITEM), hits

    compiled = jax.jit(in_float32(one_block))
    blocks = user_blocks(seen, held_out, vectors[0].shape[0], 1, block_users)
    parts = []
    for number in range(blocks.users.shape[1]):
        block = UserBlocks(*(leaf[0, number] for leaf in blocks))
        items, hits = jax.device_get(compiled(*vectors, block))
        real = block.user_mask
        parts.append((block.users[real], items[real], hits[real], block.held_out_counts[real]))
    users, items, hits, counts = (np.concatenate(leaves) for leaves in zip(*parts, strict=True))
    order = np.argsort(users)
    return Lists(users[order], items[order], hits[order], counts[order])
