"""Paired tests that two variants are equally good: over seeds, and over users.

Over seeds a test asks whether a difference would show again with other seeds; a few seeds find
large differences alone. Over users it asks whether it would show with other users of the same kind,
for the states that these seeds trained.
"""

import math
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mmssl_jax.ranking.metrics import USERS
from mmssl_jax.ranking.per_user import PerUser


class Paired(NamedTuple):
    """The mean of paired differences, how many there are, and the p-value that their mean is 0.

    NaN where there is nothing to compare, and for the p-value of fewer than two pairs.
    """

    difference: float
    p_value: float
    pairs: int


NOTHING = Paired(math.nan, math.nan, 0)


def paired_test(gaps: Float[np.ndarray, " n"]) -> Paired:
    """Student's paired t-test of differences."""
    if not len(gaps):
        return NOTHING
    return Paired(float(gaps.mean()), paired_p_value(gaps), len(gaps))


def paired_p_value(gaps: Float[np.ndarray, " n"]) -> float:
    """Two-sided p of Student's t-test that paired differences have mean 0; NaN for fewer than 2."""
    if len(gaps) < 2:
        return math.nan
    if np.all(gaps == gaps[0]):
        return 1.0 if gaps[0] == 0 else 0.0
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nearly equal differences lose digits
        return float(stats.ttest_1samp(gaps, 0.0).pvalue)


def paired_over_users(
    own: Mapping[int, PerUser], base: Mapping[int, PerUser], metric: str
) -> Paired:
    """The test over users, each with the mean over the seeds that both variants have.

    own, base: {seed: what `per_user_metrics` returns}. Users that a run
    lacks are left out.
    """
    shared = sorted(own.keys() & base.keys())
    if not shared:
        return NOTHING
    runs = [side[seed] for side in (own, base) for seed in shared]
    users = runs[0][USERS]
    for run in runs[1:]:
        users = np.intersect1d(users, run[USERS], assume_unique=True)
    values = [run[metric][np.searchsorted(run[USERS], users)].astype(np.float64) for run in runs]
    n_seeds = len(shared)
    return paired_test(np.mean(values[:n_seeds], axis=0) - np.mean(values[n_seeds:], axis=0))
