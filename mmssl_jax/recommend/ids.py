"""Raw ids to positions and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmssl_jax.data.dataset import DatasetError


def index_of_ids(ids: np.ndarray) -> dict[Any, int]:
    """{raw id: position}."""
    return {raw: position for position, raw in enumerate(ids.tolist())}


def positions(asked: Sequence | np.ndarray, index: dict[Any, int], what: str) -> np.ndarray:
    """int32 [n]: the positions of raw ids.

    what: "user" or "item", for messages. Raises DatasetError that names the first few unknown ids.
    """
    if isinstance(asked, str) or not isinstance(asked, Sequence | np.ndarray):
        raise DatasetError(f"{what} ids are {asked!r}, expected a list of ids, such as [{asked!r}]")
    plain = [raw.item() if isinstance(raw, np.generic) else raw for raw in asked]
    unknown = [raw for raw in dict.fromkeys(plain) if raw not in index]
    if unknown:
        known = next(iter(index))
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise DatasetError(
            f"unknown {what} id {', '.join(map(repr, unknown[:5]))}{more}: expected ids of the "
            f"{len(index)} {what}s of the run's dataset, which are {type(known).__name__}s such "
            f"as {known!r}"
        )
    return np.array([index[raw] for raw in plain], np.int32)


def raw_ids(entries: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The raw ids at positions, of the same shape; -1 (none) gives -1, or "" if ids are strings."""
    if np.issubdtype(ids.dtype, np.integer):
        return np.where(entries >= 0, ids[entries], -1)
    return np.where(entries >= 0, ids.astype(object)[entries], "")
