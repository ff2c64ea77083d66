"""Metrics of every user by themselves, which paired tests over users compare."""

import zipfile
import zlib
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.files import replacing
from mmssl_jax.messages import clipped
from mmssl_jax.method import Scorer
from mmssl_jax.parallel import in_float32
from mmssl_jax.ranking.evaluate import HeldOut, UserBlocks, user_blocks
from mmssl_jax.ranking.lists import Scoring, best_unseen
from mmssl_jax.ranking.metrics import USERS, places_of, relevance_of, user_metrics

# {"users": int32 [N], ascending; metric: float32 [N]} of the N users with held-out items, and of
# their H held-out pairs {"held_out": int32 [H, 2], sorted; "found@K": bool [H], if it is among the
# first K of the user's list}, K the longest of the metrics' lists.
PerUser = dict[str, np.ndarray]

METRICS = ("recall@20", "ndcg@20")
FILE = "per_user.npz"
# What a file that was cut off or changed makes NumPy raise.
DAMAGES = (
    EOFError, KeyError, MemoryError, NotImplementedError, OSError, OverflowError, SyntaxError,
    TypeError, ValueError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
PAIRS, FOUND = "held_out", "found@20"  # with the metrics above


def per_user_metrics(
    scorer: Scorer, split: HeldOut, scoring: Scoring, metrics: tuple[str, ...] = METRICS
) -> PerUser:
    """Each metric of every user with held-out items, whose means are those of the evaluator, and
    whether each held-out pair was found.

    At most one block's scores [scoring.block_users, I] exist at a time.
    metrics: such as "recall@20"; list lengths are theirs, whatever `scoring.ks` says.
    """
    ks = tuple(sorted({int(name.split("@")[1]) for name in metrics}))
    length = min(max(ks), split.n_items)

    def one_block(scorer: Scorer, block: UserBlocks) -> tuple[dict[str, Array], Array]:
        scores, items = best_unseen(scorer, block.users, block.train, block.seen(), length, scoring)
        values = user_metrics(
            relevance_of(scores, items, block.held_out), block.held_out_counts, ks
        )
        found = places_of(scores, items, block.held_out).any(axis=1)
        return {name: values[name] for name in metrics}, found

    compiled = jax.jit(in_float32(one_block))
    blocks = user_blocks(split, 1, scoring.block_users)
    parts: list[PerUser] = []
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for number in range(blocks.users.shape[1]):
        block = jax.tree.map(lambda leaf, number=number: leaf[0, number], blocks)
        values, is_found = jax.device_get(compiled(scorer, block))
        every = {USERS: block.users, **values}
        parts.append({name: value[block.user_mask] for name, value in every.items()})
        rows, of_items, real = block.held_out
        pairs.append((np.stack([block.users[rows], of_items], axis=1)[real], is_found[real]))
    found = {name: np.concatenate([part[name] for part in parts]) for name in (USERS, *metrics)}
    order = np.argsort(found[USERS])
    held_out, is_found = (np.concatenate(part) for part in zip(*pairs, strict=True))
    by_pair = np.lexsort((held_out[:, 1], held_out[:, 0]))
    return {
        **{name: values[order] for name, values in found.items()},
        PAIRS: held_out[by_pair],
        f"found@{max(ks)}": is_found[by_pair],
    }


def write_per_user(run: Path, found: PerUser) -> None:
    """Writes a run's metrics by user into its directory, whole or not at all."""
    with replacing(run / FILE) as file:
        np.savez_compressed(file, **found)  # type: ignore[arg-type]


def _check_shapes(found: PerUser) -> None:
    """Raises ValueError or KeyError unless there is one number of each metric for every user, and
    one truth for every held-out pair."""
    users, pairs = found[USERS], found[PAIRS]
    if users.ndim != 1 or users.dtype.kind != "i" or (np.diff(users) <= 0).any():
        raise ValueError(f"users are {users.dtype} of shape {users.shape}, or unsorted")
    for name in METRICS:
        if found[name].shape != users.shape or not np.isfinite(found[name]).all():
            raise ValueError(f"{name} is not one number for each of {len(users)} users")
    if found[FOUND].shape != (len(pairs),) or pairs.shape != (len(pairs), 2):
        raise ValueError(f"{FOUND} is not one truth for each of the held-out pairs")


def read_per_user(run: Path) -> PerUser | None:
    """What `write_per_user` wrote, or None where a run has no such file."""
    if not (run / FILE).is_file():
        return None
    try:
        # Opened here, since NumPy leaves open what is no archive.
        with (run / FILE).open("rb") as opened, np.load(opened) as file:
            found = dict(file)
        _check_shapes(found)
        return found
    except DAMAGES as error:
        raise DatasetError(
            f"{run / FILE}: damaged ({type(error).__name__}: {clipped(str(error))}); remove the "
            "run's directory to run it anew"
        ) from error
