"""The iterated k-core of the interactions."""

import numpy as np
from numpy.typing import NDArray


def core_of(
    users: NDArray[np.integer], items: NDArray[np.integer], per_user: int, per_item: int
) -> NDArray[np.bool_]:
    """Which interactions [E] remain when users with fewer than `per_user` and items with fewer than
    `per_item` are removed until there are none: the largest such set."""
    kept = np.ones(len(users), bool)
    while True:
        of_user = np.bincount(users[kept], minlength=users.max(initial=-1) + 1)
        of_item = np.bincount(items[kept], minlength=items.max(initial=-1) + 1)
        stays = kept & (of_user[users] >= per_user) & (of_item[items] >= per_item)
        if stays.sum() == kept.sum():
            return kept
        kept = stays
