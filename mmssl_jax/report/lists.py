"""The recommendation lists of the users with held-out items, ranked in blocks on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmssl_jax.method import Scorer
from mmssl_jax.parallel import in_float32
from mmssl_jax.ranking.evaluate import HeldOut, UserBlocks, user_blocks
from mmssl_jax.ranking.lists import Scoring, best_unseen
from mmssl_jax.ranking.metrics import relevance_of

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


def rank_lists(scorer: Scorer, split: HeldOut, k: int, scoring: Scoring) -> Lists:
    """Ranks all items but the seen ones for every user with held-out items.

    k: length of the lists, at most I.
    """

    def one_block(scorer: Scorer, block: UserBlocks) -> tuple[Array, Array]:
        scores, items = best_unseen(scorer, block.users, block.train, block.seen(), k, scoring)
        hits = relevance_of(scores, items, block.held_out)
        return jnp.where(scores > -jnp.inf, items, NO_ITEM), hits

    compiled = jax.jit(in_float32(one_block))
    blocks = user_blocks(split, 1, scoring.block_users)
    parts = []
    for number in range(blocks.users.shape[1]):
        block = jax.tree.map(lambda leaf, number=number: leaf[0, number], blocks)
        items, hits = jax.device_get(compiled(scorer, block))
        real = block.user_mask
        parts.append((block.users[real], items[real], hits[real], block.held_out_counts[real]))
    users, items, hits, counts = (np.concatenate(leaves) for leaves in zip(*parts, strict=True))
    order = np.argsort(users)
    return Lists(users[order], items[order], hits[order], counts[order])
