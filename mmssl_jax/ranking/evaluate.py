"""All-rank evaluation: user blocks on the devices, sums over blocks and devices, one division."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmssl_jax.graph.rows import RowPairs
from mmssl_jax.method import Scorer, Vectors
from mmssl_jax.parallel import AXIS, Transform, psum, replicate, share_out, spread
from mmssl_jax.ranking.lists import Scoring, best_unseen
from mmssl_jax.ranking.metrics import means, metric_names, metric_sums, relevance_of


class Evaluator(NamedTuple):
    """One split, ready to be ranked: `evaluator(scorer)` is its metrics.

    start sends the work to the devices and returns at once; finish waits for what it returned.
    """

    start: Callable[[Scorer], jax.Array]
    finish: Callable[[jax.Array], dict[str, float]]

    def __call__(self, scorer: Scorer) -> dict[str, float]:
        """Metrics of the ranking."""
        return self.finish(self.start(scorer))


class HeldOut(NamedTuple):
    """A split to be ranked: (user, item) pairs of training, of what is held out, and of what lists
    leave out besides (the validation pairs at test time)."""

    n_users: int
    n_items: int
    train: Int[np.ndarray, "E 2"]
    held_out: Int[np.ndarray, "n 2"]
    also_seen: Int[np.ndarray, "V 2"] | None = None

    @property
    def seen(self) -> Int[np.ndarray, "S 2"]:
        """All pairs that lists leave out."""
        pairs = [self.train, *([] if self.also_seen is None else [self.also_seen])]
        return np.concatenate(pairs)


class UserBlocks(NamedTuple):
    """Padded blocks of B users with their S training, V also seen and H held-out pairs.

    N stands for the leading axes: [devices, blocks] on the host, where the arrays are NumPy's,
    [blocks] on a device, and none for one block.
    """

    users: Int[Any, "*N B"]
    user_mask: Bool[Any, "*N B"]
    held_out_counts: Int[Any, "*N B"]
    train: RowPairs
    also_seen: RowPairs
    held_out: RowPairs

    def seen(self) -> RowPairs:
        """Training and also seen pairs together."""
        pairs = zip(self.train, self.also_seen, strict=True)
        return RowPairs(*(jnp.concatenate(both, axis=-1) for both in pairs))


def user_blocks(split: HeldOut, n_devices: int, block_users: int) -> UserBlocks:
    """Deals the users with held-out items to equal blocks, leading axes [devices, blocks].

    Blocks have at most `block_users` users, and no more than an even share asks for. Users are
    dealt in order of their seen items, so that the blocks have about equal numbers of pairs, and S
    and H, the largest of a block, waste little.
    """
    held_out = np.unique(split.held_out, axis=0)
    counts = np.bincount(held_out[:, 0], minlength=split.n_users)
    seen_counts = np.bincount(split.seen[:, 0], minlength=split.n_users)
    users = np.flatnonzero(counts)
    users = users[np.argsort(-seen_counts[users], kind="stable")]

    per_device = -(-len(users) // (n_devices * block_users))
    n_blocks = n_devices * per_device
    n_rows = -(-len(users) // n_blocks)
    padded = np.zeros(n_rows * n_blocks, np.int32)
    padded[: len(users)] = users
    mask = np.arange(n_rows * n_blocks) < len(users)
    block_of, row_of = np.full(split.n_users, -1), np.zeros(split.n_users, np.int64)
    block_of[users] = np.arange(len(users)) % n_blocks
    row_of[users] = np.arange(len(users)) // n_blocks

    dealt = padded.reshape(n_rows, n_blocks).T
    dealt_mask = mask.reshape(n_rows, n_blocks).T
    nothing = np.zeros((0, 2), np.int32)
    also_seen = nothing if split.also_seen is None else split.also_seen
    blocks = UserBlocks(
        dealt,
        dealt_mask,
        np.where(dealt_mask, counts[dealt], 0).astype(np.int32),
        *(_pack(pairs, block_of, row_of, n_blocks) for pairs in (split.train, also_seen, held_out)),
    )
    return jax.tree.map(lambda a: a.reshape(n_devices, per_device, *a.shape[1:]), blocks)


def _pack(
    edges: Int[np.ndarray, "E 2"],
    block_of: Int[np.ndarray, " U"],
    row_of: Int[np.ndarray, " U"],
    n_blocks: int,
) -> RowPairs:
    """The pairs [n_blocks, S] of each block; users in no block are left out."""
    blocks = block_of[edges[:, 0]]
    order = np.argsort(blocks, kind="stable")[np.count_nonzero(blocks < 0) :]
    edges, blocks = edges[order], blocks[order]
    sizes = np.bincount(blocks, minlength=n_blocks)
    place = np.arange(len(edges)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    mask = np.arange(max(1, sizes.max()))[None, :] < sizes[:, None]
    rows, items = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.int32)
    rows[blocks, place] = row_of[edges[:, 0]]
    items[blocks, place] = edges[:, 1]
    return RowPairs(rows, items, mask)


def block_sums(
    scorer: Scorer, blocks: UserBlocks, scoring: Scoring, axis: str | None = None
) -> Float[Array, " M"]:
    """Sums over all users of this device's blocks [blocks, ...] and, over `axis`, of all devices.

    The M sums are those of `metric_names(ks)`, in its order. At most one block's scores [B, I]
    exist at a time, of at most `block_items` items where vectors rank.
    """
    ks = scoring.ks
    length = min(max(ks), len(scorer[1]))

    def one_block(block: UserBlocks) -> Float[Array, " M"]:
        scores, items = best_unseen(scorer, block.users, block.train, block.seen(), length, scoring)
        relevance = relevance_of(scores, items, block.held_out)
        sums = metric_sums(relevance, block.held_out_counts, block.user_mask, ks)
        return jnp.stack([sums[name] for name in metric_names(ks)])

    with jax.named_scope("evaluate"):
        return psum(jax.lax.map(one_block, blocks).sum(axis=0), axis)


def make_evaluator(
    split: HeldOut, scoring: Scoring, devices: Sequence[jax.Device], transform: Transform
) -> Evaluator:
    """Prepares one split for all-rank evaluation: `evaluator(scorer)`.

    The evaluator ranks, for every user with held-out items, all items but those seen, and returns
    the means over these users of the metrics of `metrics.metric_sums` at each k of `scoring.ks`. It
    compiles at its first call, and brings back one small array from the devices.

    Args:
      devices, transform: as in `parallel.spread`; the users are shared out over the devices.
    Raises ValueError for pairs out of range, no held-out pair, or settings below 1; the evaluator
    raises it for vectors whose number is not n_users and n_items.
    """
    scoring = scoring._replace(ks=tuple(dict.fromkeys(int(k) for k in scoring.ks)))
    scoring.check()
    given = {"train": split.train, "held_out": split.held_out, "also_seen": split.also_seen}
    for name, edges in given.items():
        if edges is not None:
            _check_edges(name, edges, split.n_users, split.n_items)
    if not len(split.held_out):
        raise ValueError("held_out is empty: this split has no user to evaluate")
    blocks = share_out(user_blocks(split, len(devices), scoring.block_users), devices)

    def sums_of(scorer: Scorer, share: UserBlocks) -> Array:
        return block_sums(scorer, share, scoring, AXIS)

    compiled = spread(sums_of, devices, transform, (False, True))

    def start(scorer: Scorer) -> jax.Array:
        _check_scorer(scorer, split)
        sums: jax.Array = compiled(replicate(scorer, devices), blocks)
        return sums

    def finish(sums: jax.Array) -> dict[str, float]:
        values = jax.device_get(sums).astype(np.float64)
        return means(dict(zip(metric_names(scoring.ks), values, strict=True)))

    return Evaluator(start, finish)


def _check_scorer(scorer: Scorer, split: HeldOut) -> None:
    if isinstance(scorer, Vectors):
        if (len(scorer.users), len(scorer.items)) != (split.n_users, split.n_items):
            raise ValueError(
                f"got {len(scorer.users)} user and {len(scorer.items)} item vectors, but this "
                f"split has {split.n_users} users and {split.n_items} items"
            )
    elif len(scorer.weights) != split.n_items:
        raise ValueError(
            f"got weights of {len(scorer.weights)} items, but this split has {split.n_items}"
        )


def _check_edges(name: str, edges: np.ndarray, n_users: int, n_items: int) -> None:
    if edges.ndim != 2 or edges.shape[1] != 2:
        raise ValueError(f"{name} has shape {edges.shape}, but (user, item) pairs are [n, 2]")
    if len(edges) and (edges.min() < 0 or np.any(edges.max(axis=0) >= (n_users, n_items))):
        raise ValueError(
            f"{name} has users up to {edges[:, 0].max()} and items up to {edges[:, 1].max()} "
            f"(smallest index {edges.min()}), but there are {n_users} users and {n_items} items"
        )
