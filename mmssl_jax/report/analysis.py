"""What a report says of a model's lists and embeddings: arrays in, plain dicts out.

Legend: U users, I items, N users with lists, K list length, M modalities, G groups, D width.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from mmssl_jax.ranking.metrics import means, metric_sums
from mmssl_jax.report.lists import Lists

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
) -> dict[str, list]:
    """recall@k and ndcg@k of the users in each group of their numbers of training interactions.

    degrees: of the users of `lists`. Returns lists of length G: "label", "size", "recall", "ndcg".
    """
    groups = group_of(degrees, bounds)
    rows = [means(_sums(lists, groups == g, (k,))) for g in range(len(bounds))]
    return {
        "label": group_labels(degrees, bounds),
        "size": np.bincount(groups, minlength=len(bounds)).tolist(),
        "recall": [row[f"recall@{k}"] for row in rows],
        "ndcg": [row[f"ndcg@{k}"] for row in rows],
    }


def found_by_popularity(
    lists: Lists,
    held_out: Int[np.ndarray, "n 2"],
    item_degrees: Int[np.ndarray, " I"],
    bounds: Sequence[int],
    k: int,
) -> dict[str, list]:
    """Share of the held-out pairs found in the first k, by the item's training interactions.

    Returns lists of length G: "label", "size" (pairs), "found".
    """
    rows = np.searchsorted(lists.users, held_out[:, 0])
    found = (lists.items[rows, :k] == held_out[:, 1:]).any(axis=1)
    degrees = item_degrees[held_out[:, 1]]
    groups = group_of(degrees, bounds)
    sizes = np.bincount(groups, minlength=len(bounds))
    hits = np.bincount(groups, weights=found, minlength=len(bounds))
    return {
        "label": group_labels(degrees, bounds),
        "size": sizes.tolist(),
        "found": (hits / sizes).tolist(),
    }


def item_counts(items: Int[np.ndarray, "N K"], n_items: int) -> Int[np.ndarray, " I"]:
    """How often each item is in the lists; NO_ITEM does not count."""
    return np.bincount(items[items >= 0], minlength=n_items)


def concentration(
    counts: Int[np.ndarray, " I"], item_degrees: Int[np.ndarray, " I"]
) -> dict[str, Any]:
    """How evenly `counts` (of recommendations or interactions) are spread over the catalogue.

    Returns "coverage": share of items with a count. "gini": 0 for equal counts, near 1 for one item
    taking all. "mean_popularity": training interactions of the item, mean over the counts.
    "head_share": share of the counts on the tenth of the items with the most training interactions.
    "items", "share": the curve of the share of the counts that the share of most counted items has.
    """
    n_items, total = len(counts), max(int(counts.sum()), 1)
    ascending = np.sort(counts).astype(float)
    places = np.arange(1, n_items + 1)
    gini = 2 * (places * ascending).sum() / (n_items * total) - (n_items + 1) / n_items
    head = np.argsort(-item_degrees, kind="stable")[: max(1, round(n_items / 10))]
    cumulative = np.concatenate([[0.0], np.cumsum(ascending[::-1])]) / total
    share_of_items = np.linspace(0, 1, 101)
    return {
        "coverage": float((counts > 0).mean()),
        "gini": float(gini) if counts.any() else 0.0,
        "mean_popularity": float((counts * item_degrees).sum() / total),
        "head_share": float(counts[head].sum() / total),
        "items": share_of_items.tolist(),
        "share": np.interp(share_of_items, np.linspace(0, 1, n_items + 1), cumulative).tolist(),
    }


def weight_distribution(
    weights: Float[np.ndarray, "M N"], modalities: Sequence[str], bins: int = 40
) -> dict[str, dict[str, Any]]:
    """Histogram of each modality's attention weight over N nodes, in bins that all share.

    Returns {modality: {"edges": [bins + 1], "share": [bins] of the nodes, "mean": float}}.
    """
    low, high = float(weights.min()), float(weights.max())
    if high - low < 1e-6:
        low, high = low - 0.05, high + 0.05
    result = {}
    for name, row in zip(modalities, weights, strict=True):
        counts, edges = np.histogram(row, bins=bins, range=(low, high))
        result[name] = {
            "edges": edges.tolist(),
            "share": (counts / len(row)).tolist(),
            "mean": float(row.mean()),
        }
    return result


def principal_map(vectors: Float[np.ndarray, "n D"]) -> dict[str, Any]:
    """The two directions of most variance: "xy" [n, 2] and "explained", their shares of it.

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
    return {"xy": xy, "explained": explained.tolist()}


def _sums(lists: Lists, mask: np.ndarray, ks: Sequence[int]) -> dict[str, Any]:
    return metric_sums(
        jnp.asarray(lists.hits), jnp.asarray(lists.held_out_counts), jnp.asarray(mask), ks
    )
