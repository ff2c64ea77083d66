"""Whether items that look alike are consumed together: what features promise before training.

Two items are co-consumed when some user has both in training. Users with many items are left out:
they have most pairs of popular items, and would outvote all others. The share of co-consumed pairs
among an item and its nearest by features is compared with what chance gives:

    x_ij = 1 where i and its neighbour j are co-consumed, else 0
    r_i  = the share of all other items that are co-consumed with i               (random)
    m_ij = the same among the items with about as many users as j, without j      (degree-matched)
    ratio = sum of x / sum of r or m, over all pairs (i, j)

The first ratio grows also where features tell how popular an item is; the second does not.
Everything is made from sorted pairs of the users' items. Legend: I items, Q items whose neighbours
are looked at, K neighbours, P pairs.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mmssl_jax.data.dataset import Dataset

MOST_ITEMS = 20  # of a user that counts
LEAST_IN_CLASS = 10  # items of about the same number of users
LEAST_EXPECTED = 5.0  # co-consumed pairs by chance, below which nothing can be told
CLEAR = 1.5  # a ratio that is surely above this one is a signal


class Neighbourhood(NamedTuple):
    """The nearest items of some items by the features of a modality.

    known: the items that can be neighbours, those that have features. Every source is one.
    """

    sources: Int[np.ndarray, " Q"]
    items: Int[np.ndarray, "Q K"]
    found: Bool[np.ndarray, "Q K"]
    known: Bool[np.ndarray, " I"]


class Ratio(NamedTuple):
    """How many times more pairs are co-consumed than by chance, its standard error, and the share
    of pairs that chance gives; NaN where chance gives none."""

    value: float
    error: float
    chance: float


NOTHING = Ratio(math.nan, math.nan, math.nan)


class Signal(NamedTuple):
    """Of one modality: the number of pairs, the co-consumed share of them, and the comparisons."""

    pairs: int
    rate: float
    random: Ratio
    matched: Ratio

    @property
    def verdict(self) -> str:
        """ "signal", "little", "none" or "unknown", by two standard errors; none where no item has
        neighbours."""
        if not self.pairs:
            return "none"
        if math.isnan(self.matched.value) or self.pairs * self.matched.chance < LEAST_EXPECTED:
            return "unknown"
        low = self.matched.value - 2 * self.matched.error
        return "signal" if low >= CLEAR else "little" if low > 1 else "none"


EXPECTATIONS = {
    "signal": "features carry signal: similar items go to the same users, and a method that uses "
    "features well should gain by them",
    "little": "features carry little signal: expect small gains, and compare over seeds",
    "none": "features carry none that shows: expect no gain over a method without features",
    "unknown": "cannot tell: too few pairs of items share a user with few items",
}


def light_interactions(dataset: Dataset, most: int = MOST_ITEMS) -> Int[np.ndarray, "E 2"]:
    """The training interactions, sorted by user, of users who have at most `most` of them."""
    degree = np.bincount(dataset.train[:, 0], minlength=dataset.n_users)
    return dataset.train[degree[dataset.train[:, 0]] <= most]


def co_consumed(
    edges: Int[np.ndarray, "E 2"], sources: Int[np.ndarray, " Q"], n_items: int
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """All pairs (place among the sources, other item) that some user has, each once, sorted.

    edges: sorted by user. sources: without repetition.
    """
    place = np.full(n_items, -1)
    place[sources] = np.arange(len(sources))
    users, first, degree = np.unique(edges[:, 0], return_index=True, return_counts=True)
    of_edge = np.searchsorted(users, edges[:, 0])
    ours = np.flatnonzero(place[edges[:, 1]] >= 0)
    repeats = degree[of_edge[ours]]
    within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    others = edges[np.repeat(first[of_edge[ours]], repeats) + within, 1]
    here = np.repeat(edges[ours, 1], repeats)
    apart = others != here
    keys = np.unique(place[here[apart]].astype(np.int64) * n_items + others[apart])
    return keys // n_items, keys % n_items


def degree_classes(
    degrees: Int[np.ndarray, " I"], known: Bool[np.ndarray, " I"], least: int = LEAST_IN_CLASS
) -> Int[np.ndarray, " I"]:
    """Numbers of classes of items with about the same degree, at least `least` known ones in each
    where there are as many."""
    values, counts = np.unique(degrees[known], return_counts=True)
    number, filled, class_of = 0, 0, np.zeros(len(values), np.int64)
    for place, count in enumerate(counts.tolist()):
        class_of[place] = number
        filled += count
        if filled >= least:
            number, filled = number + 1, 0
    if filled and number:  # the last is too small: it joins the one before
        class_of[class_of == number] = number - 1
    places = np.minimum(np.searchsorted(values, degrees), len(values) - 1)
    return class_of[places]


def signal_of(
    edges: Int[np.ndarray, "E 2"], near: Neighbourhood, least: int = LEAST_IN_CLASS
) -> Signal:
    """How much more often neighbours are co-consumed than random and than degree-matched items."""
    if not near.found.any():
        return Signal(0, math.nan, NOTHING, NOTHING)
    n_items = len(near.known)
    place, other = co_consumed(edges, near.sources, n_items)
    degrees = np.bincount(edges[:, 1], minlength=n_items)
    class_of = degree_classes(degrees, near.known, least)

    rows, columns = np.nonzero(near.found)
    items = near.items[rows, columns].astype(np.int64)
    together = _times(place * n_items + other, rows * n_items + items)
    kept = near.known[other]  # items that can be neighbours, in whose place chance draws
    place, other = place[kept], other[kept]
    n_known = int(np.count_nonzero(near.known))
    by_source = np.bincount(place, minlength=len(near.sources))[rows]
    random = by_source / max(n_known - 1, 1)

    n_classes = int(class_of.max()) + 1
    sizes = np.bincount(class_of[near.known], minlength=n_classes)
    matching = _times(
        np.sort(place * n_classes + class_of[other]), rows * n_classes + class_of[items]
    )
    own = class_of[near.sources][rows] == class_of[items]
    # Chance draws neither the neighbour itself nor the item whose neighbour it is.
    drawn = sizes[class_of[items]] - 1 - own
    matched = np.where(drawn > 0, (matching - together) / np.maximum(drawn, 1), np.nan)

    pairs = near.sources[rows], items
    usable = drawn > 0
    return Signal(
        pairs=len(rows),
        rate=float(together.mean()),
        random=_ratio(together, random, pairs, n_items),
        matched=_ratio(
            together[usable], matched[usable], (pairs[0][usable], items[usable]), n_items
        ),
    )


def _times(keys: Int[np.ndarray, " P"], wanted: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """How often each wanted key is among the sorted keys."""
    return np.searchsorted(keys, wanted, "right") - np.searchsorted(keys, wanted, "left")


def _ratio(
    together: Int[np.ndarray, " n"],
    chance: Float[np.ndarray, " n"],
    pairs: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]],
    n_items: int,
) -> Ratio:
    """sum x / sum chance, with a standard error in which pairs that share an item are dependent:

    the variance of the sum of residuals x - ratio * chance is the sum over items of the squared sum
    of the item's residuals, less what the two items of a pair count twice; and no less than that of
    independent pairs.
    """
    expected = float(chance.sum())
    if not expected > 0:
        return NOTHING
    value = float(together.sum()) / expected
    residual = together - value * chance
    first, second = pairs
    of_items = sum(np.bincount(side, residual, minlength=n_items) for side in pairs)
    keys = np.minimum(first, second) * n_items + np.maximum(first, second)
    _, number = np.unique(keys, return_inverse=True)
    of_pairs = np.bincount(number, residual)
    variance = float(np.square(of_items).sum() - np.square(of_pairs).sum())
    variance = max(variance, float(np.square(of_pairs).sum()))
    return Ratio(value, math.sqrt(variance) / expected, expected / len(chance))
