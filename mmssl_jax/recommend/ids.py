"""Raw ids to positions and back."""

import reprlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from mmssl_jax.data.dataset import DatasetError

Ids = Iterable[Any]  # a list, an array, a Series, a set; not a string

NAMED = 5  # ids that a message names


def index_of_ids(ids: np.ndarray) -> dict[Any, int]:
    """{raw id: position}."""
    return {raw: position for position, raw in enumerate(ids.tolist())}


def plain_ids(asked: Any, what: str) -> list[Any]:
    """The ids of any iterable as Python values, in its order.

    what: "user" or "item", for messages. Raises DatasetError for a string, for what is no iterable,
    and for ids that are no single values.
    """
    is_one = isinstance(asked, str | bytes) or _is_scalar(asked)
    if is_one or not isinstance(asked, Iterable):
        shown = reprlib.repr(asked)
        raise DatasetError(f"{what} ids are {shown}, expected a list of ids, such as [{shown}]")
    plain = [raw.item() if _is_scalar(raw) else raw for raw in asked]
    for raw in plain:
        if not _is_hashable(raw):
            raise DatasetError(
                f"{what} ids hold a {type(raw).__name__}, {reprlib.repr(raw)}: expected a flat "
                "list of ids"
            )
    return plain


def positions(asked: Any, index: dict[Any, int], what: str) -> np.ndarray:
    """int32 [n]: the positions of raw ids, any iterable of them.

    what: "user" or "item", for messages. Raises DatasetError that names the first few unknown ids.
    """
    plain = plain_ids(asked, what)
    # To a dict, True and 1.0 are 1.
    unknown = [
        raw for raw in dict.fromkeys(plain) if isinstance(raw, bool | float) or raw not in index
    ]
    if unknown:
        known = next(iter(index))
        raise DatasetError(
            f"unknown {what} id {listed(unknown)}: expected ids of the {len(index)} {what}s of the "
            f"run's dataset, which are {type(known).__name__}s such as {known!r}"
        )
    return np.array([index[raw] for raw in plain], np.int32)


def listed(ids: list[Any]) -> str:
    """The first few ids, for a message."""
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return ", ".join(map(reprlib.repr, ids[:NAMED])) + more


def raw_ids(entries: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The raw ids at positions, of the same shape; -1 (none) gives -1, or "" if ids are strings."""
    if np.issubdtype(ids.dtype, np.integer):
        return np.where(entries >= 0, ids[entries], -1)
    return np.where(entries >= 0, ids.astype(object)[entries], "")


def _is_scalar(raw: Any) -> bool:
    """Whether it is a number or text of NumPy's, or an array of no dimension."""
    return getattr(raw, "ndim", None) == 0


def _is_hashable(raw: Any) -> bool:
    try:
        hash(raw)
    except TypeError:
        return False
    return True
