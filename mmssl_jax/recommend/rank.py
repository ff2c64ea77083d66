"""Ranking a catalogue for many queries, in blocks of one shape on the device."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.graph.rows import BatchEdges
from mmssl_jax.parallel import in_float32
from mmssl_jax.precision import Precision
from mmssl_jax.ranking.topk import top_k_unseen

# A left-out entry's score is about -_FAR, and no other is below -_FAR / 2. Infinity would do as
# well, but for accelerators that make a product of float32 numbers from several smaller ones.
_FAR = 1e30


class Pairs(NamedTuple):
    """(query, entry) pairs, sorted by query: `entries[start[q] : start[q + 1]]` belong to q."""

    start: Int[np.ndarray, " Q_plus_1"]
    entries: Int[np.ndarray, " E"]


def select(pairs: Pairs, queries: Int[np.ndarray, " n"]) -> list[np.ndarray]:
    """The entries of some queries."""
    return [pairs.entries[pairs.start[q] : pairs.start[q + 1]] for q in queries.tolist()]


def pad_pairs(lists: list[np.ndarray], n_rows: int, least: int) -> BatchEdges:
    """The pairs of one block, sorted by row, in a power of two of places (`least` or more)."""
    counts = np.array([len(entries) for entries in lists], np.int64)
    total = int(counts.sum())
    length = max(least, 1 << max(total - 1, 0).bit_length())
    row = np.full(length, n_rows - 1, np.int32)
    item, slot = np.zeros(length, np.int32), np.zeros(length, np.int32)
    row[:total] = np.repeat(np.arange(len(lists)), counts)
    if total:
        item[:total] = np.concatenate(lists)
        slot[:total] = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    return BatchEdges(*(jnp.asarray(a) for a in (row, item, slot, np.arange(length) < total)))


def without(
    vectors: Float[Array, "N D"], left_out: Bool[Array, " N"] | None
) -> Float[Array, "N D_plus_1"]:
    """Vectors with a channel more, through which left-out entries lose to all others.

    For the queries, `left_out` is None: their channel is 1.
    """
    if left_out is None:
        channel = jnp.ones(vectors.shape[0], vectors.dtype)
    else:
        channel = jnp.where(left_out, -_FAR, 0.0).astype(vectors.dtype)
    return jnp.concatenate([vectors, channel[:, None]], axis=1)


@functools.partial(jax.jit, static_argnums=(4, 5))
@in_float32
def _rank_block(
    queries: Array,
    catalogue: Array,
    left_out: Array,
    seen: BatchEdges,
    k: int,
    precision: Precision,
) -> tuple[Array, Array]:
    scores, entries = top_k_unseen(
        without(queries, None),
        without(catalogue, left_out),
        seen.row,
        seen.item,
        seen.mask,
        k,
        precision=precision,
    )
    return jnp.where(scores > -_FAR / 2, scores, -jnp.inf), entries


def rank(
    queries: Float[Array, "n D"],
    catalogue: Float[Array, "N D"],
    left_out: Bool[np.ndarray, " N"],
    seen: list[np.ndarray],
    k: int,
    block: int,
    least_pairs: int = 256,
    precision: Precision = "float32",
) -> tuple[Float[np.ndarray, "n K"], Int[np.ndarray, "n K"]]:
    """Scores and entries of each query's k best of the catalogue by inner product, best first.

    Where fewer than k are left, the rest of the list has score -inf and entry -1.

    Args:
      left_out: entries that no list may hold.
      seen: per query, the entries that its list may not hold.
      block: queries ranked at once; a block takes 4 * block * N bytes.
      least_pairs: room for the seen pairs of a block; a block with more of them compiles again,
        once per doubling.
      precision: of the scores' operands.
    Raises DatasetError unless k is 1 or more.
    """
    if k < 1:
        raise DatasetError(f"k is {k}, expected a list length of 1 or more")
    n, length = len(seen), min(k, len(catalogue))
    scores, entries = np.full((n, k), -np.inf, np.float32), np.full((n, k), -1, np.int64)
    mask = jnp.asarray(left_out)
    for first in range(0, n, block):
        rows = slice(first, min(first + block, n))
        part = queries[rows]
        part = jnp.pad(part, ((0, block - part.shape[0]), (0, 0)))
        pairs = pad_pairs(seen[rows], block, least_pairs)
        best, items = jax.device_get(_rank_block(part, catalogue, mask, pairs, length, precision))
        scores[rows, :length] = best[: rows.stop - first]
        entries[rows, :length] = items[: rows.stop - first]
    return scores, np.where(np.isfinite(scores), entries, -1)
