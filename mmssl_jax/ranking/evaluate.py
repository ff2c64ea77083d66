"""All-rank evaluation: user blocks on the devices, sums over blocks and devices, one division."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmssl_jax.parallel import AXIS, Transform, replicate, share_out, spread, total_over
from mmssl_jax.precision import Precision
from mmssl_jax.ranking.metrics import means, metric_names, metric_sums, relevance_of
from mmssl_jax.ranking.topk import top_k_unseen

Vectors = Float[Array | np.ndarray, "_ D"]


class Evaluator(NamedTuple):
    """One split, ready to be ranked: `evaluator(user_vectors, item_vectors)` is its metrics.

    start sends the work to the devices and returns at once; finish waits for what it returned.
    """

    start: Callable[[Vectors, Vectors], jax.Array]
    finish: Callable[[jax.Array], dict[str, float]]

    def __call__(self, user_vectors: Vectors, item_vectors: Vectors) -> dict[str, float]:
        """Metrics of the ranking by inner product."""
        return self.finish(self.start(user_vectors, item_vectors))


class UserBlocks(NamedTuple):
    """Padded blocks of B users with their S seen and H held-out pairs, as (row of the block, item).

    N stands for the leading axes: [devices, blocks] on the host, where the arrays are NumPy's,
    [blocks] on a device, and none for one block.
    """

    users: Int[Any, "*N B"]
    user_mask: Bool[Any, "*N B"]
    held_out_counts: Int[Any, "*N B"]
    seen_rows: Int[Any, "*N S"]
    seen_items: Int[Any, "*N S"]
    seen_mask: Bool[Any, "*N S"]
    held_out_rows: Int[Any, "*N H"]
    held_out_items: Int[Any, "*N H"]
    held_out_mask: Bool[Any, "*N H"]


def user_blocks(
    seen: Int[np.ndarray, "E 2"],
    held_out: Int[np.ndarray, "n 2"],
    n_users: int,
    n_devices: int,
    block_users: int,
) -> UserBlocks:
    """Deals the users with held-out items to equal blocks, leading axes [devices, blocks].

    `held_out` has no repeated pairs. Blocks have at most `block_users` users, and no more than
    an even share asks for. Users are dealt in order of their seen items, so that the blocks have
    about equal numbers of pairs and S and H, the largest of a block, waste little.
    """
    counts = np.bincount(held_out[:, 0], minlength=n_users)
    seen_counts = np.bincount(seen[:, 0], minlength=n_users)
    users = np.flatnonzero(counts)
    users = users[np.argsort(-seen_counts[users], kind="stable")]

    per_device = -(-len(users) // (n_devices * block_users))
    n_blocks = n_devices * per_device
    n_rows = -(-len(users) // n_blocks)
    padded = np.zeros(n_rows * n_blocks, np.int32)
    padded[: len(users)] = users
    mask = np.arange(n_rows * n_blocks) < len(users)
    block_of, row_of = np.full(n_users, -1), np.zeros(n_users, np.int64)
    block_of[users] = np.arange(len(users)) % n_blocks
    row_of[users] = np.arange(len(users)) // n_blocks

    dealt = padded.reshape(n_rows, n_blocks).T
    dealt_mask = mask.reshape(n_rows, n_blocks).T
    blocks = UserBlocks(
        dealt,
        dealt_mask,
        np.where(dealt_mask, counts[dealt], 0).astype(np.int32),
        *_pack(seen, block_of, row_of, n_blocks),
        *_pack(held_out, block_of, row_of, n_blocks),
    )
    return UserBlocks(*(a.reshape(n_devices, per_device, *a.shape[1:]) for a in blocks))


def _pack(
    edges: Int[np.ndarray, "E 2"],
    block_of: Int[np.ndarray, " U"],
    row_of: Int[np.ndarray, " U"],
    n_blocks: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, items and mask [n_blocks, S] of the edges of each block; users in no block are left."""
    blocks = block_of[edges[:, 0]]
    order = np.argsort(blocks, kind="stable")[np.count_nonzero(blocks < 0) :]
    edges, blocks = edges[order], blocks[order]
    sizes = np.bincount(blocks, minlength=n_blocks)
    place = np.arange(len(edges)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    mask = np.arange(max(1, sizes.max()))[None, :] < sizes[:, None]
    rows, items = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.int32)
    rows[blocks, place] = row_of[edges[:, 0]]
    items[blocks, place] = edges[:, 1]
    return rows, items, mask


def block_sums(
    user_vectors: Float[Array, "U D"],
    item_vectors: Float[Array, "I D"],
    blocks: UserBlocks,
    ks: Sequence[int],
    axis: str | None = None,
    block_items: int = 32768,
    precision: Precision = "float32",
) -> Float[Array, " M"]:
    """Sums over all users of this device's blocks [blocks, ...] and, over `axis`, of all devices.

    The M sums are those of `metric_names(ks)`, in its order. At most one block's scores [B, I]
    exist at a time, of at most `block_items` items.
    """
    length = min(max(ks), item_vectors.shape[0])

    def one_block(block: UserBlocks) -> Float[Array, " M"]:
        scores, items = top_k_unseen(
            user_vectors[block.users],
            item_vectors,
            block.seen_rows,
            block.seen_items,
            block.seen_mask,
            length,
            block_items,
            precision,
        )
        relevance = relevance_of(
            scores, items, block.held_out_rows, block.held_out_items, block.held_out_mask
        )
        sums = metric_sums(relevance, block.held_out_counts, block.user_mask, ks)
        return jnp.stack([sums[name] for name in metric_names(ks)])

    with jax.named_scope("evaluate"):
        return total_over(jax.lax.map(one_block, blocks).sum(axis=0), axis)


def make_evaluator(
    train_edges: Int[np.ndarray, "E 2"],
    held_out: Int[np.ndarray, "n 2"],
    n_users: int,
    n_items: int,
    ks: Sequence[int],
    devices: Sequence[jax.Device],
    transform: Transform,
    block_users: int = 512,
    block_items: int = 32768,
    precision: Precision = "float32",
    also_seen: Int[np.ndarray, "V 2"] | None = None,
) -> Evaluator:
    """Prepares one split for all-rank evaluation: `evaluator(user_vectors, item_vectors)`.

    The evaluator ranks, for every user with held-out items, all items but those the user has in
    `train_edges` and, where given, in `also_seen` (the validation edges at test time), by inner
    product, and returns the means over these users of the metrics of `metrics.metric_sums` at each
    k of `ks`. It compiles at its first call, and brings back one small array from the devices.

    Args:
      train_edges, held_out, also_seen: (user, item) pairs.
      devices, transform: as in `parallel.spread`; the users are shared out over the devices.
      block_users, block_items: most users, and items, that a device scores at once; their scores
        take 4 * block_users * block_items bytes.
      precision: of the scores' operands.
    Raises ValueError for pairs out of range, no held-out pair, or settings below 1; the evaluator
    raises it for vectors whose number is not n_users and n_items.
    """
    ks = tuple(dict.fromkeys(int(k) for k in ks))
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {ks}, but it needs list lengths of 1 or more, such as (10, 20)")
    for name, size in (("block_users", block_users), ("block_items", block_items)):
        if size < 1:
            raise ValueError(f"{name} is {size}, but a block needs 1 or more")
    given = {"train_edges": train_edges, "held_out": held_out}
    if also_seen is not None:
        given["also_seen"] = also_seen
    for name, edges in given.items():
        _check_edges(name, edges, n_users, n_items)
    if not len(held_out):
        raise ValueError("held_out is empty: this split has no user to evaluate")
    seen = train_edges if also_seen is None else np.concatenate([train_edges, also_seen])

    blocks = share_out(
        user_blocks(seen, np.unique(held_out, axis=0), n_users, len(devices), block_users), devices
    )

    def sums_of(users: Array, items: Array, share: UserBlocks) -> Array:
        return block_sums(users, items, share, ks, AXIS, block_items, precision)

    compiled = spread(sums_of, devices, transform, (False, False, True))

    def start(user_vectors: Vectors, item_vectors: Vectors) -> jax.Array:
        if (len(user_vectors), len(item_vectors)) != (n_users, n_items):
            raise ValueError(
                f"got {len(user_vectors)} user and {len(item_vectors)} item vectors, but this "
                f"split has {n_users} users and {n_items} items"
            )
        sums: jax.Array = compiled(*replicate((user_vectors, item_vectors), devices), blocks)
        return sums

    def finish(sums: jax.Array) -> dict[str, float]:
        values = jax.device_get(sums).astype(np.float64)
        return means(dict(zip(metric_names(ks), values, strict=True)))

    return Evaluator(start, finish)


def _check_edges(name: str, edges: np.ndarray, n_users: int, n_items: int) -> None:
    if edges.ndim != 2 or edges.shape[1] != 2:
        raise ValueError(f"{name} has shape {edges.shape}, but (user, item) pairs are [n, 2]")
    if len(edges) and (edges.min() < 0 or np.any(edges.max(axis=0) >= (n_users, n_items))):
        raise ValueError(
            f"{name} has users up to {edges[:, 0].max()} and items up to {edges[:, 1].max()} "
            f"(smallest index {edges.min()}), but there are {n_users} users and {n_items} items"
        )
