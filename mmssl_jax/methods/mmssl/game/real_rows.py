"""Real rows, in the cheapest form that is exact to rounding once the critic's first kernel is
applied.

A real row is rownorm(p + zeta s), p the softmax of the user's noisy training row and s the model's
own unit score row (`unit_rows.py`). What it takes of p is p W, p . s and |p|^2.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import jraph
from jax.extend.random import threefry_2x32
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Shaped

from mmssl_jax.graph.rows import BatchEdges, edges_of_own_items
from mmssl_jax.methods.mmssl.config import GameConfig
from mmssl_jax.methods.mmssl.game.factored_rows import FactoredRows
from mmssl_jax.methods.mmssl.game.unit_rows import UnitScores
from mmssl_jax.nodes import Nodes, axis_of, node_sum, without_padding
from mmssl_jax.norms import inverse_norm
from mmssl_jax.parallel import all_gather, axis_index, psum_scatter, share_of
from mmssl_jax.precision import Precision, matmul

_TINY = 1e-8  # inside both logarithms of the Gumbel noise
# -log(-log(u + 1e-8) + 1e-8) for u in [0, 1] lies between these.
_GUMBEL_LOW, _GUMBEL_HIGH = -2.92, 18.43


def gumbel(uniform: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """g = -log(-log(u + 1e-8) + 1e-8) of uniform draws."""
    return -jnp.log(-jnp.log(uniform + _TINY) + _TINY)


def logit_scales(config: GameConfig) -> tuple[float, float]:
    """Factors of the training row and of the noise in a real row's logits."""
    noise = config.gumbel_scale / config.temperature
    return (1 / config.temperature if config.temperature_scope == "logit" else 1.0), noise


def observed_dominate(config: GameConfig, n_items: int) -> bool:
    """Whether the softmax of real rows vanishes off the observed items, to float32 rounding.

    The gap between the least observed and the greatest other logit bounds what all others weigh
    together by n_items exp(-gap); below 1e-10 they change no float32 sum.
    """
    observed, noise = logit_scales(config)
    gap = observed - noise * (_GUMBEL_HIGH - _GUMBEL_LOW)
    return math.log(n_items) - gap < math.log(1e-10)


def noise_is_rounding(config: GameConfig, n_items: int, dtype: DTypeLike) -> bool:
    """Whether the noise of real rows is below the rounding of a sum over the items.

    With noise factor n in the logits and g of deviation pi/sqrt(6), the noise in p is about
    n pi/sqrt(6) |p|, and |p| <= exp(observed)/sqrt(I); the row has norm about zeta. A product of
    the row with the kernel rounds by eps sqrt(I), so noise below that is lost in it anyway.
    """
    observed, noise = logit_scales(config)
    if not config.score_weight:
        return False
    largest = min(1.0, math.exp(min(observed, 50.0)) / math.sqrt(n_items))
    relative = noise * math.pi / math.sqrt(6) * largest / config.score_weight
    return relative < float(jnp.finfo(dtype).eps) * math.sqrt(n_items) / 4


class Noise(NamedTuple):
    """Uniform draws for the Gumbel noise of this device's rows, from a key or injected.

    source: a key, or draws `[B, I]` for the whole batch of all devices. first_row: place of this
    device's first row in the whole batch, by which the draws are keyed.
    """

    source: Shaped[Array, "..."]
    first_row: Int[Array, ""]

    @property
    def is_injected(self) -> bool:
        """Whether `source` is the draws themselves."""
        return not jnp.issubdtype(self.source.dtype, jax.dtypes.prng_key)


def uniform_at_edges(noise: Noise, edges: BatchEdges) -> Float[Array, " S"]:
    """Uniform draws for each edge."""
    row = edges.row + noise.first_row
    if noise.is_injected:
        return noise.source[row, edges.item]
    keys = jax.vmap(lambda r, s: jax.random.fold_in(jax.random.fold_in(noise.source, r), s))
    return jax.vmap(jax.random.uniform)(keys(row, edges.slot))


def uniform_block(
    noise: Noise, n_rows: int, first: Int[Array, ""] | int, size: int
) -> Float[Array, "B N"]:
    """Uniform draws for `size` items from number `first` on, both even. A draw depends on the key,
    the row and the item alone, so that blocks and devices change none."""
    rows = noise.first_row + jnp.arange(n_rows)
    if noise.is_injected:
        items = first + jnp.arange(size)
        return noise.source[rows[:, None], jnp.minimum(items, noise.source.shape[1] - 1)[None, :]]
    # A block of the generator serves two items.
    pairs = first // 2 + jnp.arange(size // 2)
    places = jnp.meshgrid(rows.astype(jnp.uint32), pairs.astype(jnp.uint32), indexing="ij")
    words = threefry_2x32(jax.random.key_data(noise.source), jnp.stack(places))
    draws = (words >> 8).astype(jnp.float32) * 2.0**-24
    return jnp.moveaxis(draws, 0, -1).reshape(n_rows, size)


class SoftRows(NamedTuple):
    """What a real row needs of p = softmax(logits): p unformed, p . s and |p|^2."""

    rows: FactoredRows
    dot_unit_scores: Float[Array, " B"]
    squared_norm: Float[Array, " B"]


class SoftRowSums(NamedTuple):
    """Running sums of exp(logit - maximum) over blocks of items."""

    maximum: Float[Array, " B"]
    total: Float[Array, " B"]
    projection: Float[Array, "B H"]
    dot_unit_scores: Float[Array, " B"]
    squared_norm: Float[Array, " B"]


def sparse_soft_rows(scores: UnitScores, noise: Noise, config: GameConfig) -> SoftRows:
    """Real rows whose softmax vanishes off the observed items: work on the batch's edges alone."""
    edges, n_rows = scores.edges, scores.edges.n_rows
    observed, noise_scale = logit_scales(config)
    logits = observed + noise_scale * gumbel(uniform_at_edges(noise, edges))
    # Padding edges get a segment of their own, which is dropped.
    segment = jnp.where(edges.mask, edges.row, n_rows)
    weights = jraph.segment_softmax(logits, segment, n_rows + 1)
    weights = jnp.where(edges.mask, weights, 0.0)
    unit = scores.left_at_edges() * scores.inverse_norm[edges.row]
    return SoftRows(
        rows=FactoredRows(edges, edge_weights=weights),
        dot_unit_scores=_by_row(edges, weights * unit),
        squared_norm=_by_row(edges, weights**2),
    )


def smooth_soft_rows(
    scores: UnitScores, config: GameConfig, nodes: Nodes | None = None
) -> SoftRows:
    """Real rows without their noise, where `noise_is_rounding`: p = (1 + (e^o - 1) A) / total.

    With o the logit of an observed item, p is a constant plus a sparse row: O(I H + S H) in place
    of O(B I H). A row without scores, whose noise is not small beside them, loses it too.
    """
    edges, n_rows, dtype = scores.edges, len(scores.items), scores.items.dtype
    n_items = n_rows if nodes is None else nodes.all_items
    rise = math.expm1(logit_scales(config)[0])
    present = edges.mask.astype(dtype)
    of_all_items = scores.users @ node_sum(jnp.sum(scores.items, axis=0), nodes)
    ones = without_padding(jnp.ones((n_rows, 1), dtype), nodes)
    if scores.masked is not None:
        of_all_items = of_all_items - _by_row(edges, scores.masked)
    of_edges = _by_row(edges, present * scores.left_at_edges())
    n_observed = _by_row(edges, present)
    total = n_items + rise * n_observed
    return SoftRows(
        rows=FactoredRows(
            edges,
            factors=((1 / total[:, None], ones),),
            edge_weights=rise * present / total[edges.row],
        ),
        dot_unit_scores=(of_all_items + rise * of_edges) * scores.inverse_norm / total,
        squared_norm=(n_items + ((rise + 1) ** 2 - 1) * n_observed) / total**2,
    )


def _by_row(edges: BatchEdges, values: Float[Array, " S"]) -> Float[Array, " B"]:
    return jax.ops.segment_sum(values, edges.row, edges.n_rows, indices_are_sorted=True)


def dense_soft_rows(
    scores: UnitScores,
    kernel: Float[Array, "I H"],
    noise: Noise,
    config: GameConfig,
    precision: Precision = "float32",
    nodes: Nodes | None = None,
) -> SoftRows:
    """Real rows in full, walking the items in blocks with a running maximum; memory O(B block).

    Where rows of items are spread, each device walks its items for the rows of all devices.
    """
    own = scores
    if nodes is not None:
        scores, noise = scores_of_all(scores, len(kernel), nodes), Noise(noise.source, jnp.int32(0))
    sums = walk_items(scores, kernel, noise, config, precision, nodes)
    if nodes is not None:
        sums = add_soft_sums(sums, nodes)
    return SoftRows(
        rows=FactoredRows(own.edges, projected=sums.projection / sums.total[:, None]),
        dot_unit_scores=sums.dot_unit_scores / sums.total,
        squared_norm=sums.squared_norm / sums.total**2,
    )


def scores_of_all(scores: UnitScores, n_items: int, nodes: Nodes) -> UnitScores:
    """The unit score rows of all devices at this device's `n_items` items, which count from 0."""
    mine, order = edges_of_own_items(scores.edges, n_items, nodes)
    users, inverse_norm, at_edges, masked = all_gather(
        (scores.users, scores.inverse_norm, scores.at_edges, scores.masked), nodes.axis
    )
    masked = None if masked is None else jnp.where(mine.mask, masked[order], 0.0)
    return UnitScores(mine, users, scores.items, inverse_norm, at_edges[order], masked)


def add_soft_sums(sums: SoftRowSums, nodes: Nodes) -> SoftRowSums:
    """Sums over this device's items for the rows of all devices, to those over all items for this
    device's rows."""
    maximum = jax.lax.pmax(jax.lax.stop_gradient(sums.maximum), nodes.axis)
    shrink = jnp.exp(sums.maximum - maximum)
    return SoftRowSums(
        share_of(maximum, nodes.axis),
        *psum_scatter(
            (
                sums.total * shrink,
                sums.projection * shrink[:, None],
                sums.dot_unit_scores * shrink,
                sums.squared_norm * shrink**2,
            ),
            nodes.axis,
        ),
    )


def walk_items(
    scores: UnitScores,
    kernel: Float[Array, "I H"],
    noise: Noise,
    config: GameConfig,
    precision: Precision,
    nodes: Nodes | None,
) -> SoftRowSums:
    """The sums of `SoftRowSums` over the items of which there are rows here."""
    edges, n_rows, n_here = scores.edges, scores.edges.n_rows, kernel.shape[0]
    n_items = n_here if nodes is None else nodes.all_items
    first = axis_index(axis_of(nodes)) * n_here
    size = min(config.block_items + config.block_items % 2, n_here + n_here % 2)
    n_blocks = -(-n_here // size)
    padding = ((0, n_blocks * size - n_here), (0, 0))
    kernels = jnp.pad(kernel, padding).reshape(n_blocks, size, -1)
    items = jnp.pad(scores.items, padding).reshape(n_blocks, size, -1)
    observed, noise_scale = logit_scales(config)

    def add_block(carry: SoftRowSums, block: tuple[Array, Array, Array]) -> tuple:
        index, block_kernel, block_items = block
        inside = edges.mask & (edges.item // size == index)
        column = jnp.where(inside, edges.item % size, size)  # out of range is dropped
        is_edge = jnp.zeros((n_rows, size)).at[edges.row, column].set(1.0, mode="drop")
        logits = observed * is_edge + noise_scale * gumbel(
            uniform_block(noise, n_rows, first + index * size, size)
        )
        place = index * size + jnp.arange(size)
        in_catalogue = (place < n_here) & (first + place < n_items)
        logits = jnp.where(in_catalogue[None, :], logits, -jnp.inf)
        unit = matmul(scores.users, block_items.T, precision) * scores.inverse_norm[:, None]
        if scores.masked is not None:
            taken_out = scores.masked * scores.inverse_norm[edges.row]
            unit = unit.at[edges.row, column].add(-taken_out, mode="drop")
        return _add_soft_block(carry, logits, unit, block_kernel, precision), None

    start = SoftRowSums(
        # Not -inf, from which a block without any item, all padding, would subtract itself.
        maximum=jnp.full(n_rows, jnp.finfo(kernel.dtype).min / 2),
        total=jnp.zeros(n_rows),
        projection=jnp.zeros((n_rows, kernel.shape[1])),
        dot_unit_scores=jnp.zeros(n_rows),
        squared_norm=jnp.zeros(n_rows),
    )
    blocks = (jnp.arange(n_blocks), kernels, items)
    if n_blocks == 1:
        return add_block(start, jax.tree.map(lambda leaf: leaf[0], blocks))[0]
    # Recomputing a block in the backward pass keeps one block alive instead of all of them.
    sums: SoftRowSums = jax.lax.scan(jax.checkpoint(add_block), start, blocks)[0]
    return sums


def _add_soft_block(
    carry: SoftRowSums,
    logits: Float[Array, "B N"],
    unit: Float[Array, "B N"],
    kernel: Float[Array, "N H"],
    precision: Precision,
) -> SoftRowSums:
    maximum = jnp.maximum(carry.maximum, jnp.max(logits, axis=1))
    shrink = jnp.exp(carry.maximum - maximum)
    weights = jnp.exp(logits - maximum[:, None])
    return SoftRowSums(
        maximum=maximum,
        total=carry.total * shrink + jnp.sum(weights, axis=1),
        projection=carry.projection * shrink[:, None] + matmul(weights, kernel, precision),
        dot_unit_scores=carry.dot_unit_scores * shrink + jnp.sum(weights * unit, axis=1),
        squared_norm=carry.squared_norm * shrink**2 + jnp.sum(weights**2, axis=1),
    )


def soft_form(
    config: GameConfig, n_items: int, dtype: DTypeLike
) -> Literal["sparse", "smooth", "dense"]:
    """The cheapest of the three forms of p that is exact to rounding."""
    if observed_dominate(config, n_items):
        return "sparse"
    return "smooth" if noise_is_rounding(config, n_items, dtype) else "dense"


def observed_rows(edges: BatchEdges, dtype: DTypeLike) -> FactoredRows:
    """The training rows x = rownorm(a)."""
    rows = FactoredRows(edges, edge_weights=edges.mask.astype(dtype))
    return rows.scaled(inverse_norm(edges.degree.astype(dtype)))


def real_rows(
    scores: UnitScores,
    kernel: Float[Array, "I H"],
    noise: Noise,
    config: GameConfig,
    precision: Precision = "float32",
    nodes: Nodes | None = None,
) -> FactoredRows:
    """The real rows x = rownorm(p + zeta s), s the model's own unit score row; with `real_rows`
    observed, x = rownorm(a). p has the cheapest of three forms that is exact to rounding."""
    n_items, dtype = len(kernel) if nodes is None else nodes.all_items, kernel.dtype
    if config.real_rows == "observed":
        return observed_rows(scores.edges, dtype)
    form = soft_form(config, n_items, dtype)
    if form == "sparse":
        soft = sparse_soft_rows(scores, noise, config)
    elif form == "smooth":
        soft = smooth_soft_rows(scores, config, nodes)
    else:
        soft = dense_soft_rows(scores, kernel, noise, config, precision, nodes)
    zeta = config.score_weight
    # |s| is 1 unless the row is zero, when there is nothing to add.
    has_scores = (scores.inverse_norm > 0).astype(dtype)
    squared = soft.squared_norm + 2 * zeta * soft.dot_unit_scores + zeta**2 * has_scores
    rows = soft.rows
    if zeta:
        rows = scores.rows().scaled(jnp.full_like(squared, zeta)).plus(rows)
    return rows.scaled(inverse_norm(squared))
