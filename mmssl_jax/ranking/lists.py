"""The K best unseen items of a block of users, by either kind of scorer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmssl_jax.blocks import Block, fold_blocks, vectors_at_once
from mmssl_jax.config import Config
from mmssl_jax.graph.rows import RowPairs
from mmssl_jax.graph.topk import top_k_unseen, without_seen
from mmssl_jax.method import ItemWeights, Scorer, Vectors
from mmssl_jax.precision import Precision


class Scoring(NamedTuple):
    """How lists are made and measured.

    ks: list lengths. block_users, block_items: most users, and items, scored at once; their scores
    take 4 * block_users * block_items bytes. precision: of the scores' operands.
    """

    ks: tuple[int, ...] = (10, 20, 50)
    block_users: int = 512
    block_items: int = 32768
    precision: Precision = "float32"

    @classmethod
    def of(cls, config: Config) -> "Scoring":
        """As configured."""
        chosen = config.eval
        return cls(chosen.ks, chosen.block_users, chosen.block_items, config.precision)

    def check(self) -> None:
        """Raises ValueError for lengths or sizes below 1."""
        if not self.ks or min(self.ks) < 1:
            raise ValueError(
                f"ks is {self.ks}, but it needs list lengths of 1 or more, such as (10, 20)"
            )
        for name in ("block_users", "block_items"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but a block needs 1 or more")


def best_unseen(
    scorer: Scorer,
    users: Int[Array, " B"],
    train: RowPairs,
    seen: RowPairs,
    k: int,
    scoring: Scoring,
) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """Scores and items of each user's k best items, best first, without those seen.

    Where fewer than k are left, the rest of the list has score -inf.

    Args:
      users: positions of the users in the scorer's vectors.
      train: the users' training items, which item weights are summed over.
    """
    if isinstance(scorer, Vectors):
        queries, items = scorer.users[users], scorer.items
        return top_k_unseen(queries, items, seen, k, scoring.block_items, scoring.precision)
    scores = without_seen(weighted_scores(scorer, train, len(users)), seen)
    best, items = jax.lax.top_k(scores, k)
    return best, items


def weighted_scores(scorer: ItemWeights, train: RowPairs, n_rows: int) -> Float[Array, "B I"]:
    """The scores of all items: for each row the sum of its training items' weights."""
    n_items, width = scorer.weights.shape

    def add_pairs(total: Float[Array, "B I"], block: Block) -> Float[Array, "B I"]:
        rows, items, mask = block.cut(train)
        weights = jnp.where((mask & block.is_new)[:, None], scorer.weights[items], 0.0)
        if scorer.neighbours is None:  # whole rows, without a place for each weight
            return total.at[rows].add(weights)
        return total.at[rows[:, None], scorer.neighbours[items]].add(weights)

    with jax.named_scope("scores"):
        start = jnp.zeros((n_rows, n_items), scorer.weights.dtype)
        return fold_blocks(len(train.rows), vectors_at_once(width), start, add_pairs)
