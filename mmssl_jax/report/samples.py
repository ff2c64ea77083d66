"""Recommendations of a few users, in raw ids."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from mmssl_jax.data.dataset import Dataset
from mmssl_jax.report.lists import NO_ITEM, Lists


class Sample(NamedTuple):
    """What a user has and gets, in raw ids; `listed` are (item, is it a hit), best first."""

    user: str
    train: list[str]
    held_out: list[str]
    listed: list[tuple[str, bool]]


def sample_rows(groups: Int[np.ndarray, " N"], seed: int = 0) -> list[int]:
    """One random row of each group, ascending by group; equal arguments give equal rows."""
    rng = np.random.default_rng(seed)
    return [int(rng.choice(np.flatnonzero(groups == g))) for g in np.unique(groups)]


def sample_recommendations(
    dataset: Dataset, held_out: Int[np.ndarray, "n 2"], lists: Lists, rows: Sequence[int], k: int
) -> list[Sample]:
    """What the users of some rows of `lists` have and get, at most k items."""
    samples = []
    for row in rows:
        user, ids = lists.users[row], dataset.item_ids
        places = [p for p in range(min(k, lists.items.shape[1])) if lists.items[row, p] != NO_ITEM]
        samples.append(
            Sample(
                user=str(dataset.user_ids[user]),
                train=[str(i) for i in ids[dataset.train[dataset.train[:, 0] == user, 1]]],
                held_out=[str(i) for i in ids[held_out[held_out[:, 0] == user, 1]]],
                listed=[(str(ids[lists.items[row, p]]), bool(lists.hits[row, p])) for p in places],
            )
        )
    return samples
