"""Which interactions are training, validation and test. A user keeps one in training always."""

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.prepare.settings import SplitSettings

TRAIN, VALIDATION, TEST = 0, 1, 2


def split_interactions(
    users: NDArray[np.integer], times: np.ndarray | None, settings: SplitSettings
) -> tuple[NDArray[np.int8], int]:
    """Label [E] of each interaction, 0 training, 1 validation, 2 test, and how many a global cut in
    time held out but had to give back, since their users would have none in training.

    users [E] numbers from 0. times [E], or None for an order by chance.
    """
    rng = np.random.default_rng(settings.seed)
    chance = rng.random(len(users))
    if settings.method == "global_time":
        assert times is not None
        labels = _cut_in_time(times, settings)
        return labels, _give_back(labels, users, times, chance)
    if settings.method == "random":
        times = None
    degree = np.bincount(users)
    rank = _rank_from_last(users, times, chance)
    n_validation, n_test = _held_out(degree, settings, rng)
    is_test = rank < n_test[users]
    is_held_out = rank < (n_test + n_validation)[users]
    return np.select([is_test, is_held_out], [TEST, VALIDATION], TRAIN).astype(np.int8), 0


def _rank_from_last(
    users: NDArray[np.integer], times: np.ndarray | None, chance: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Place [E] of an interaction among its user's from the last one, 0, back; ties by chance."""
    order = np.lexsort((chance, users) if times is None else (chance, times, users))
    after = np.cumsum(np.bincount(users))  # one behind the user's last place in this order
    rank = np.empty(len(users), np.int64)
    rank[order] = after[users[order]] - 1 - np.arange(len(users))
    return rank


def _held_out(
    degree: NDArray[np.int64], settings: SplitSettings, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Validation and test interactions of each user [U].

    A share of few interactions is no whole number; it is rounded by chance, up or down, so that the
    shares are right on average. One interaction is left for training, then test comes first.
    """
    if settings.method == "leave_one_out":
        validation, test = np.ones_like(degree), np.ones_like(degree)
    else:
        shares = (settings.validation, settings.test)
        # Before rounding down: 0.1 * 30 is a little above 3, and 0.7 * 10 a little below 7.
        exact = (np.round(share * degree, 9) for share in shares)
        validation, test = (np.floor(x + rng.random(len(degree))).astype(int) for x in exact)
    test = np.minimum(test, np.maximum(degree - 1, 0))
    return np.minimum(validation, np.maximum(degree - 1 - test, 0)), test


def _cut_in_time(times: np.ndarray, settings: SplitSettings) -> NDArray[np.int8]:
    """Labels by two moments; equal times stay together, so the shares are met up to ties."""
    ordered, n = np.sort(times), len(times)
    labels = np.zeros(n, np.int8)
    n_test = round(settings.test * n)
    n_held_out = round((settings.test + settings.validation) * n)
    if n_held_out:
        labels[times >= ordered[n - n_held_out]] = VALIDATION
    if n_test:
        labels[times >= ordered[n - n_test]] = TEST
    return labels


def _give_back(
    labels: NDArray[np.int8],
    users: NDArray[np.integer],
    times: np.ndarray,
    chance: NDArray[np.float64],
) -> int:
    """Labels the first interaction of users without training as training; returns their number."""
    of_user = np.bincount(users[labels == TRAIN], minlength=users.max(initial=-1) + 1)
    order = np.lexsort((chance, times, users))
    first = order[np.unique(users[order], return_index=True)[1]]
    lost = first[of_user[users[first]] == 0]
    labels[lost] = TRAIN
    return len(lost)
