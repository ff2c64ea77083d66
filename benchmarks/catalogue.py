"""Large synthetic catalogues as arrays in memory: for timing, not for learning."""

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.data.dataset import Dataset

USERS_PER_ITEM = 1.5
TRAIN_PER_USER = 10


def catalogue(n_items: int, seed: int = 0, n_modalities: int = 2, width: int = 128) -> Dataset:
    """A dataset of 1.5 users per item with 10 training interactions and 1 test one each.

    The item at popularity rank r is drawn with probability about r^-0.7 and has random features.
    Not checked: `Dataset.check` is among what the benchmarks time. Raises ValueError for fewer
    than 20 items.
    """
    if n_items < 20:
        raise ValueError(f"n_items is {n_items}, expected at least 20")
    rng = np.random.default_rng(seed)
    n_users = int(USERS_PER_ITEM * n_items)
    items = _distinct_items(rng, n_users, n_items, TRAIN_PER_USER + 1)
    held_out = np.arange(TRAIN_PER_USER + 1) == rng.integers(TRAIN_PER_USER + 1, size=(n_users, 1))
    users = np.broadcast_to(np.arange(n_users, dtype=np.int32)[:, None], items.shape)
    return Dataset(
        name=f"catalogue-{n_items}",
        source="benchmarks.catalogue",
        user_ids=np.arange(n_users),
        item_ids=np.arange(n_items),
        train=np.stack([users[~held_out], items[~held_out]], axis=1),
        validation=np.zeros((0, 2), np.int32),
        test=np.stack([users[held_out], items[held_out]], axis=1),
        features={
            f"m{m}": rng.standard_normal((n_items, width), np.float32) for m in range(n_modalities)
        },
    )


def _distinct_items(
    rng: np.random.Generator, n_users: int, n_items: int, per_user: int
) -> NDArray[np.int32]:
    """Ascending distinct items `[U, per_user]`, popular ones more often; repeats are redrawn."""
    item_of_rank = rng.permutation(n_items).astype(np.int32)

    def draw(size: int | tuple[int, int]) -> NDArray[np.int32]:
        # The inverse of the distribution function of a density r^-0.7 on (0, 1).
        ranks = np.minimum((n_items * rng.random(size) ** (1 / 0.3)).astype(np.int64), n_items - 1)
        return item_of_rank[ranks]

    items = np.sort(draw((n_users, per_user)), axis=1)
    open_users = np.arange(n_users)
    while len(open_users):
        rows = items[open_users]
        repeated = np.zeros(rows.shape, bool)
        repeated[:, 1:] = rows[:, 1:] == rows[:, :-1]
        has_repeat = repeated.any(axis=1)
        open_users, rows, repeated = open_users[has_repeat], rows[has_repeat], repeated[has_repeat]
        rows[repeated] = draw(int(repeated.sum()))
        items[open_users] = np.sort(rows, axis=1)
    return items
