"""What a report says of a model's lists and embeddings: arrays in, plain dicts out.

Legend: U users, I items, N users with lists, K list length, M modalities, G groups, D width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmssl_jax.ranking.metrics import means, metric_sums
from mmssl_jax.report.lists import Lists


class Groups(NamedTuple):
    """Values of users or pairs, grouped by training interactions; lists have one entry a group.

    label: the range of interactions. size: users or pairs. values: each measure by its name.
    """

    label: list[str]
    size: list[int]
    values: dict[str, list[float]]


class Concentration(NamedTuple):
    """How evenly counts (of recommendations or interactions) are spread over the catalogue.

    coverage: share of items with a count. gini: 0 for equal counts, near 1 for one item taking all.
    mean_popularity: training interactions of the item, mean over the counts. head_share: share of
    the counts on the tenth of the items with the most training interactions. items, share: the
    curve of the share of the counts that the share of most counted items has.
    """

    coverage: float
    gini: float
    mean_popularity: float
    head_share: float
    items: list[float]
    share: list[float]


class Histogram(NamedTuple):
    """Shares of the nodes in bins, whose edges are one more, and the mean."""

    edges: list[float]
    share: list[float]
    mean: float


class PlaneMap(NamedTuple):
    """Points [n, 2], and the shares of the variance that the two directions explain."""

    xy: Float[np.ndarray, "n 2"]
    explained: list[float]


# Least degrees of the groups; 0 is one of its own. To group users by sparsity is the paper's kind
# of analysis; the bounds are our own.
USUAL_BOUNDS = (1, 5, 10, 20, 50)
LARGEST_SHARE = 0.8


def group_bounds(degrees: Int[np.ndarray, " N"]) -> tuple[int, ...]:
    """Least degree of each group that `degrees` fall into, ascending, from 0; none is empty.

    The usual groups, or quartiles of the degrees above 0 where one usual group would hold more
    than LARGEST_SHARE of these.
    """
    positive = degrees[degrees > 0]
    bounds: Sequence[int] = USUAL_BOUNDS
    if len(positive):
        sizes = np.bincount(np.searchsorted(USUAL_BOUNDS, positive, side="right"))
        if sizes.max() > LARGEST_SHARE * len(positive):
            quartiles = np.quantile(positive, (0.25, 0.5, 0.75), method="higher")
            bounds = np.unique([1, *quartiles.astype(int)]).tolist()
    filled = np.unique(np.searchsorted(bounds, degrees, side="right"))
    return tuple([0, *bounds][index] for index in filled)


def group_of(degrees: Int[np.ndarray, " N"], bounds: Sequence[int]) -> Int[np.ndarray, " N"]:
    """Index of the group of each degree; a degree below the first bound is in the first group."""
    return np.maximum(np.searchsorted(bounds, degrees, side="right") - 1, 0)


def group_labels(degrees: Int[np.ndarray, " N"], bounds: Sequence[int]) -> list[str]:
    """The range of degrees that each group really has: "0", "1-4", "50-312"."""
    groups = group_of(degrees, bounds)
    ranges = [(degrees[groups == g].min(), degrees[groups == g].max()) for g in range(len(bounds))]
    return [f"{low}" if low == high else f"{low}-{high}" for low, high in ranges]


def list_metrics(lists: Lists, ks: Sequence[int]) -> dict[str, float]:
    """Means over all users of every metric at every k of `ks`, as the evaluator computes them."""
    everyone = np.ones(len(lists.users), bool)
    return means(_sums(lists, everyone, ks))


def metrics_by_activity(
    lists: Lists, degrees: Int[np.ndarray, " N"], bounds: Sequence[int], k: int
) -> Groups:
    """recall@k and ndcg@k of the users in each group of their numbers of training interactions.

    degrees: of the users of `lists`.
    """
    groups = group_of(degrees, bounds)
    rows = [means(_sums(lists, groups == g, (k,))) for g in range(len(bounds))]
    return Groups(
        label=group_labels(degrees, bounds),
        size=np.bincount(groups, minlength=len(bounds)).tolist(),
        values={name: [row[f"{name}@{k}"] for row in rows] for name in ("recall", "ndcg")},
    )


def found_by_popularity(
    lists: Lists,
    held_out: Int[np.ndarray, "n 2"],
    item_degrees: Int[np.ndarray, " I"],
    bounds: Sequence[int],
    k: int,
) -> Groups:
    """Share of the held-out pairs found in the first k, by the item's training interactions."""
    rows = np.searchsorted(lists.users, held_out[:, 0])
    found = (lists.items[rows, :k] == held_out[:, 1:]).any(axis=1)
    degrees = item_degrees[held_out[:, 1]]
    groups = group_of(degrees, bounds)
    sizes = np.bincount(groups, minlength=len(bounds))
    hits = np.bincount(groups, weights=found, minlength=len(bounds))
    return Groups(group_labels(degrees, bounds), sizes.tolist(), {"found": (hits / sizes).tolist()})


def item_counts(items: Int[np.ndarray, "N K"], n_items: int) -> Int[np.ndarray, " I"]:
    """How often each item is in the lists; NO_ITEM does not count."""
    return np.bincount(items[items >= 0], minlength=n_items)


def concentration(
    counts: Int[np.ndarray, " I"], item_degrees: Int[np.ndarray, " I"]
) -> Concentration:
    """How evenly `counts` (of recommendations or interactions) are spread over the catalogue."""
    n_items, total = len(counts), max(int(counts.sum()), 1)
    ascending = np.sort(counts).astype(float)
    places = np.arange(1, n_items + 1)
    gini = 2 * (places * ascending).sum() / (n_items * total) - (n_items + 1) / n_items
    head = np.argsort(-item_degrees, kind="stable")[: max(1, round(n_items / 10))]
    cumulative = np.concatenate([[0.0], np.cumsum(ascending[::-1])]) / total
    share_of_items = np.linspace(0, 1, 101)
    return Concentration(
        coverage=float((counts > 0).mean()),
        gini=float(gini) if counts.any() else 0.0,
        mean_popularity=float((counts * item_degrees).sum() / total),
        head_share=float(counts[head].sum() / total),
        items=share_of_items.tolist(),
        share=np.interp(share_of_items, np.linspace(0, 1, n_items + 1), cumulative).tolist(),
    )


def weight_distribution(
    weights: Float[np.ndarray, "M N"], modalities: Sequence[str], bins: int = 40
) -> dict[str, Histogram]:
    """Histogram of each modality's weight over N nodes, in bins that all share, by modality."""
    low, high = float(weights.min()), float(weights.max())
    if high - low < 1e-6:
        low, high = low - 0.05, high + 0.05
    result = {}
    for name, row in zip(modalities, weights, strict=True):
        counts, edges = np.histogram(row, bins=bins, range=(low, high))
        result[name] = Histogram(edges.tolist(), (counts / len(row)).tolist(), float(row.mean()))
    return result


def principal_map(vectors: Float[np.ndarray, "n D"]) -> PlaneMap:
    """Vectors in the plane of the two directions of most variance.

    The sign of each direction is such that its largest entry is positive.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, scales, directions = np.linalg.svd(centred, full_matrices=False)
    directions, variances = directions[:2], scales**2
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    xy = np.zeros((len(vectors), 2))
    xy[:, : len(directions)] = centred @ (directions * signs[:, None]).T
    explained = np.zeros(2)
    if variances.sum() > 0:
        explained[: len(directions)] = variances[:2] / variances.sum()
    return PlaneMap(xy, explained.tolist())


def _sums(lists: Lists, mask: np.ndarray, ks: Sequence[int]) -> dict[str, Array]:
    return metric_sums(
        jnp.asarray(lists.hits), jnp.asarray(lists.held_out_counts), jnp.asarray(mask), ks
    )
