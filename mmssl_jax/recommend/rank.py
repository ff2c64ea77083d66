"""Ranking a catalogue for many queries, in blocks of one shape on the device."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.graph.rows import BatchEdges, RowPairs
from mmssl_jax.graph.topk import top_k_unseen, without_seen
from mmssl_jax.messages import shown
from mmssl_jax.method import ItemWeights
from mmssl_jax.parallel import in_float32
from mmssl_jax.precision import Precision
from mmssl_jax.ranking.lists import weighted_scores

# A left-out entry's score is about -_FAR, and no other is below -_FAR / 2. Minus infinity would
# become NaN on accelerators that make a product of float32 numbers from several of fewer bits.
_FAR = 1e30

# Lists of more are padding that only costs, unless the catalogue is larger.
LONGEST = 100_000

Lists = tuple[Float[np.ndarray, "n K"], Int[np.ndarray, "n K"]]


class Pairs(NamedTuple):
    """(query, entry) pairs, sorted by query: `entries[start[q] : start[q + 1]]` belong to q."""

    start: Int[np.ndarray, " Q_plus_1"]
    entries: Int[np.ndarray, " E"]


class QueryBlocks(NamedTuple):
    """How queries are ranked.

    size: queries at once; a block takes 4 * size * entries bytes. least_pairs: room for the seen
    pairs of a block; a block with more of them compiles again, once per doubling. precision: of the
    scores' operands.
    """

    size: int = 256
    least_pairs: int = 256
    precision: Precision = "float32"


def is_whole(number: object) -> bool:
    """Whether it is a whole number of Python's or NumPy's; a bool is none."""
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def select(pairs: Pairs, queries: Int[np.ndarray, " n"]) -> list[np.ndarray]:
    """The entries of some queries."""
    return [pairs.entries[pairs.start[q] : pairs.start[q + 1]] for q in queries.tolist()]


def pad_pairs(lists: list[np.ndarray], blocks: QueryBlocks) -> BatchEdges:
    """The pairs of one block, sorted by row, in `least_pairs` places or a higher power of two."""
    counts = np.zeros(blocks.size, np.int32)
    counts[: len(lists)] = [len(entries) for entries in lists]
    total = int(counts.sum())
    length = max(blocks.least_pairs, 1 << max(total - 1, 0).bit_length())
    row = np.full(length, blocks.size - 1, np.int32)
    item, slot = np.zeros(length, np.int32), np.zeros(length, np.int32)
    row[:total] = np.repeat(np.arange(blocks.size), counts)
    if total:
        item[:total] = np.concatenate(lists)
        slot[:total] = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    arrays = (row, item, slot, np.arange(length) < total, counts)
    return BatchEdges(*map(jnp.asarray, arrays))


def _row_pairs(edges: BatchEdges) -> RowPairs:
    return RowPairs(edges.row, edges.item, edges.mask)


def _with_channel(
    vectors: Float[Array, "N D"], channel: Float[Array, " N"]
) -> Float[Array, "N D_plus_1"]:
    """Vectors with a channel more, through which left-out entries lose to all others."""
    return jnp.concatenate([vectors, channel.astype(vectors.dtype)[:, None]], axis=1)


@functools.partial(jax.jit, static_argnums=(4, 5))
@in_float32
def _rank_vectors(
    queries: Array,
    catalogue: Array,
    left_out: Array,
    seen: BatchEdges,
    k: int,
    precision: Precision,
) -> tuple[Array, Array]:
    scores, entries = top_k_unseen(
        _with_channel(queries, jnp.ones(len(queries))),
        _with_channel(catalogue, jnp.where(left_out, -_FAR, 0.0)),
        _row_pairs(seen),
        k,
        precision=precision,
    )
    return jnp.where(scores > -_FAR / 2, scores, -jnp.inf), entries


def rank_vectors(
    queries: Float[Array, "n D"],
    catalogue: Float[Array, "N D"],
    left_out: Bool[np.ndarray, " N"],
    seen: list[np.ndarray],
    k: int,
    blocks: QueryBlocks,
) -> Lists:
    """Scores and entries of each query's k best of the catalogue by inner product, best first.

    Where fewer than k are left, the rest of the list has score -inf and entry -1.

    Args:
      left_out: entries that no list may hold.
      seen: per query, the entries that its list may not hold.
    Raises DatasetError unless k is 1 or more.
    """
    mask = jnp.asarray(left_out)

    def best(rows: slice, length: int) -> tuple[Array, Array]:
        part = queries[rows]
        part = jnp.pad(part, ((0, blocks.size - part.shape[0]), (0, 0)))
        pairs = pad_pairs(seen[rows], blocks)
        return _rank_vectors(part, catalogue, mask, pairs, length, blocks.precision)

    return _in_blocks(best, len(seen), len(catalogue), k, blocks.size)


@functools.partial(jax.jit, static_argnums=4)
def _rank_by_weights(
    scorer: ItemWeights, history: BatchEdges, left_out: Array, seen: BatchEdges, k: int
) -> tuple[Array, Array]:
    scores = weighted_scores(scorer, _row_pairs(history), history.n_rows)
    scores = jnp.where(left_out[None, :], -jnp.inf, without_seen(scores, _row_pairs(seen)))
    best, entries = jax.lax.top_k(scores, k)
    return best, entries


def rank_by_weights(
    scorer: ItemWeights,
    histories: list[np.ndarray],
    left_out: Bool[np.ndarray, " N"],
    seen: list[np.ndarray],
    k: int,
    blocks: QueryBlocks,
) -> Lists:
    """The same by item weights, for queries that are known by the items they have."""
    mask = jnp.asarray(left_out)

    def best(rows: slice, length: int) -> tuple[Array, Array]:
        history, pairs = (pad_pairs(lists[rows], blocks) for lists in (histories, seen))
        return _rank_by_weights(scorer, history, mask, pairs, length)

    return _in_blocks(best, len(seen), len(left_out), k, blocks.size)


def _in_blocks(
    best: Callable[[slice, int], tuple[Array, Array]], n: int, n_entries: int, k: int, size: int
) -> Lists:
    if not is_whole(k) or k < 1:
        raise DatasetError(f"k is {shown(k)}, expected a list length of 1 or more")
    if k > max(n_entries, LONGEST):
        raise DatasetError(f"k is {shown(k)}, but there are {n_entries:,} to choose from")
    length = min(k, n_entries)
    scores, entries = np.full((n, k), -np.inf, np.float32), np.full((n, k), -1, np.int64)
    for first in range(0, n, size):
        rows = slice(first, min(first + size, n))
        found, items = jax.device_get(best(rows, length))
        scores[rows, :length] = found[: rows.stop - first]
        entries[rows, :length] = items[: rows.stop - first]
    return scores, np.where(np.isfinite(scores), entries, -1)
