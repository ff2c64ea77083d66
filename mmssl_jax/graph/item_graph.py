"""Graphs between items from their features: the k nearest of each by cosine."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmssl_jax.config import DataConfig
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.sparse import SparseMatrix, sparse_matrix
from mmssl_jax.graph.topk import top_k_in_blocks
from mmssl_jax.norms import unit_rows

# Items that look for their nearest at once, and items that are compared with them at once.
ROWS_AT_ONCE, ITEMS_AT_ONCE = 1024, 16384

# What is left of a constant column of float32 less its mean, as a share of it.
ROUNDING = 1e-5


class Neighbours(NamedTuple):
    """The k nearest items of each of N, nearest first; places that are not `found` are padding."""

    items: Int[Array, "N K"]
    cosine: Float[Array, "N K"]
    found: Bool[Array, "N K"]


def item_features(dataset: Dataset) -> dict[str, Float[Array, "I _F"]]:
    """{modality: the raw features}, a row of zeros for an item that lacks the modality."""
    masked = {}
    for modality, rows in dataset.features.items():
        present = dataset.presence.get(modality)
        kept = rows if present is None else np.where(present[:, None], rows, 0.0)
        masked[modality] = jnp.asarray(kept, jnp.float32)
    return masked


def item_presence(dataset: Dataset) -> dict[str, Bool[Array, " I"]]:
    """{modality: whether each item has it}, for all modalities."""
    everywhere = np.ones(dataset.n_items, bool)
    return {m: jnp.asarray(dataset.presence.get(m, everywhere)) for m in dataset.features}


def centred(
    features: Float[Array, "I F"], present: Bool[Array, " I"]
) -> tuple[Float[Array, "I F"], Float[Array, " F"]]:
    """Features less their mean over the items that have them, zero for the others; and the mean.

    Without it cosines would mostly compare what all items have in common. A row is zero, too, where
    nothing but rounding is left, as of constant features.
    """
    has = present[:, None]
    mean = jnp.sum(jnp.where(has, features, 0.0), axis=0) / jnp.maximum(jnp.sum(present), 1)
    rows = features - mean[None, :]
    lengths, raw = (jnp.linalg.norm(x, axis=1, keepdims=True) for x in (rows, features))
    return jnp.where(has & (lengths > ROUNDING * raw), rows, 0.0), mean


def modality_neighbours(
    dataset: Dataset, k: int, itself: bool, data: DataConfig, centre: bool = False
) -> dict[str, Neighbours]:
    """{modality: the k nearest items of each item by its raw features}, as `nearest_items`.

    With `data.neighbours` random, those of the same numbers of neighbours, drawn at random.

    Args:
      centre: whether the features' mean over the items is subtracted first.
    """
    found = {}
    present = item_presence(dataset)
    for number, (modality, features) in enumerate(item_features(dataset).items()):
        rows = centred(features, present[modality])[0] if centre else features
        nearest = nearest_items(rows, k, itself)
        rng = np.random.default_rng((data.seed, number))
        found[modality] = rewired(nearest, rng, itself) if data.neighbours == "random" else nearest
    return found


def rewired(neighbours: Neighbours, rng: np.random.Generator, itself: bool) -> Neighbours:
    """The same graph with its ends shuffled: each item keeps how many neighbours it has, and how
    many it is a neighbour of. By chance an end may stand twice in a row, or be the item itself.

    Args:
      itself: whether the first of a row is the item itself, which stays.
    """
    items, moved = np.array(neighbours.items), np.array(neighbours.found)
    moved[:, 0] &= not itself
    items[moved] = rng.permutation(items[moved])
    return neighbours._replace(items=jnp.asarray(items))


def nearest_items(features: Float[Array, "I F"], k: int, itself: bool) -> Neighbours:
    """The k nearest items of each item, min(k, I) of them, by the cosine of their rows.

    An item with a row of zeros, such as one that lacks the modality, has no neighbours, not even
    itself, and is nobody's. No items x items array is formed.

    Args:
      itself: whether an item is the first of its own neighbours, or none of them.
    """
    n_items = features.shape[0]
    own = jnp.inf if itself else -jnp.inf
    unit = unit_rows(features)
    return _nearest(unit, unit, min(k, n_items), own)


def nearest_of_queries(
    queries: Float[Array, "N F"], features: Float[Array, "I F"], k: int
) -> Neighbours:
    """The k nearest items, min(k, I) of them, of rows that are not among the items."""
    return _nearest(unit_rows(queries), unit_rows(features), min(k, len(features)), None)


def _nearest(
    queries: Float[Array, "N F"], items: Float[Array, "I F"], k: int, own: float | None
) -> Neighbours:
    """The nearest of unit rows; `own` is what query n scores with item n in place of 1, if they are
    the same."""
    n_queries, n_items = queries.shape[0], items.shape[0]
    known = jnp.any(items != 0, axis=1)
    block = min(ROWS_AT_ONCE, n_queries)
    n_blocks = -(-n_queries // block)
    places = jnp.minimum(jnp.arange(n_blocks * block, dtype=jnp.int32), n_queries - 1)

    def one_block(rows: Int[Array, " B"]) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
        def adjust(scores: Float[Array, "B M"], first: Int[Array, ""]) -> Float[Array, "B M"]:
            column = first + jnp.arange(scores.shape[1])
            is_known = known[jnp.minimum(column, n_items - 1)][None, :]
            scores = jnp.where(is_known, scores, -jnp.inf)
            if own is None:
                return scores
            return jnp.where(rows[:, None] == column[None, :], own, scores)

        return top_k_in_blocks(queries[rows], items, k, min(ITEMS_AT_ONCE, n_items), adjust)

    cosine, nearest = jax.lax.map(one_block, places.reshape(n_blocks, block))
    cosine, nearest = (x.reshape(-1, k)[:n_queries] for x in (cosine, nearest))
    found = (cosine > -jnp.inf) & jnp.any(queries != 0, axis=1)[:, None]
    return Neighbours(nearest, jnp.where(found, jnp.minimum(cosine, 1.0), 0.0), found)


def neighbour_matrix(neighbours: Neighbours, weights: Float[Array, "N K"]) -> SparseMatrix:
    """W [N, I] with W[n, j] = the weight of n's neighbour j; 0 where none was found."""
    n_rows, k = neighbours.items.shape
    rows = jnp.repeat(jnp.arange(n_rows, dtype=jnp.int32), k)
    weights = jnp.where(neighbours.found, weights, 0.0)
    return sparse_matrix(rows, neighbours.items.reshape(-1), weights.reshape(-1))


def mean_weights(neighbours: Neighbours) -> Float[Array, "N K"]:
    """1 / (number found) for each neighbour found: rows that sum to 1, or to 0 where none was."""
    count = jnp.sum(neighbours.found, axis=1, keepdims=True)
    return jnp.where(neighbours.found, 1.0 / jnp.maximum(count, 1), 0.0)


def symmetric_weights(neighbours: Neighbours, values: Float[Array, "I K"]) -> Float[Array, "I K"]:
    """v_ij (d_i d_j)^-1/2 with d_i the sum of row i of v; 0 where a sum is not positive."""
    degree = jnp.sum(jnp.where(neighbours.found, values, 0.0), axis=1)
    positive = degree > 0
    inverse = jnp.where(positive, jnp.where(positive, degree, 1.0) ** -0.5, 0.0)
    return values * inverse[:, None] * inverse[neighbours.items]


def cosine_weights(neighbours: Neighbours, cosine: Float[Array, "I K"]) -> Float[Array, "I K"]:
    """`symmetric_weights` of the cosines above 0; the others weigh nothing."""
    positive = jnp.where(neighbours.found, jnp.maximum(cosine, 0.0), 0.0)
    return symmetric_weights(neighbours, positive)


def mixed_neighbours(
    neighbours: Mapping[str, Neighbours], weights: Mapping[str, float]
) -> tuple[Neighbours, Float[Array, "N MK"]]:
    """The neighbours of all modalities side by side, and their weights in the weighted mean of the
    modalities' `mean_weights`: of the modalities that an item has neighbours in."""
    parts = zip(*neighbours.values(), strict=True)
    together = Neighbours(*(jnp.concatenate(part, axis=1) for part in parts))
    shares = jnp.concatenate([weights[m] * mean_weights(n) for m, n in neighbours.items()], axis=1)
    total = jnp.sum(shares, axis=1, keepdims=True)
    return together, shares / jnp.where(total > 0, total, 1.0)
