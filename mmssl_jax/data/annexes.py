"""Optional files of every layout: raw ids, and which items have a modality."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.data.arrays import dtype_name, read_npy
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.data.sources import names_with, read_json
from mmssl_jax.messages import shown

MASK_SUFFIX = "_mask.npy"
LONGEST_RAW_ID = 500  # an array of texts takes room for its longest, as many times as it has texts
BROKEN = re.compile("[\0\ud800-\udfff]")  # NumPy drops a NUL; half a character has no bytes


def read_ids(path: Path, size: int, of: str) -> np.ndarray:
    """Raw ids [size] from a JSON list of strings; 0, 1, .. if there is no such file.

    of: what there are `size` of, for messages.
    Raises DatasetError on anything but `size` different strings.
    """
    if not os.path.lexists(path):
        return np.arange(size)
    ids = read_json(path, "a list of raw ids as strings")
    if not isinstance(ids, list):
        raise DatasetError(
            f"{path.name}: the top level is a JSON {type(ids).__name__}, expected a list of raw "
            f'ids as strings, like ["B0001", "B0002"]'
        )
    for place, raw in enumerate(ids):
        if not isinstance(raw, str) or not raw or len(raw) > LONGEST_RAW_ID or BROKEN.search(raw):
            raise DatasetError(
                f"{path.name}: entry {place} is {shown(raw)}, expected a raw id as a non-empty "
                f"string of at most {LONGEST_RAW_ID} characters, without NUL or half characters"
            )
    if len(ids) != size:
        raise DatasetError(
            f"{path.name}: {len(ids)} ids, expected {size}, one for each of the {of}; entry i is "
            f"the raw id of number i"
        )
    _refuse_repeats(path.name, ids)
    return np.array(ids, dtype=np.str_) if ids else np.zeros(0, np.str_)


def _refuse_repeats(file: str, ids: list[str]) -> None:
    places: dict[str, int] = {}
    for place, raw in enumerate(ids):
        if places.setdefault(raw, place) != place:
            raise DatasetError(
                f"{file}: {shown(raw)} is entry {places[raw]} and entry {place}, expected each id "
                f"once"
            )


def read_masks(
    folder: Path, features: dict[str, NDArray[np.float32]], suffix: str, found: Iterable[str]
) -> dict[str, NDArray[np.bool_]]:
    """{modality: bool [I]} from <modality>_mask.npy, of the modalities that some item lacks.

    The feature rows of items that lack a modality become 0 in place, whatever they hold.
    suffix: of the feature files. found: modalities of the folder, read or not.
    Raises DatasetError on a mask without features, or of another type or length.
    """
    for modality in modalities_with(folder, MASK_SUFFIX):
        if modality not in found:
            raise DatasetError(
                f"{folder}: {modality}{MASK_SUFFIX} without {modality}{suffix}: a mask says which "
                f"rows of the features are there; add the features or remove the mask"
            )
    masks = {}
    for modality, rows in features.items():
        path = folder / f"{modality}{MASK_SUFFIX}"
        if not os.path.lexists(path):
            continue
        present = _read_mask(path, rows)
        rows[~present] = 0
        if not present.all():
            masks[modality] = present
    return masks


def _read_mask(path: Path, rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    def check(dtype: np.dtype, shape: tuple[int, ...]) -> None:
        if dtype != np.bool_ or shape != rows.shape[:1]:
            raise DatasetError(
                f"{path.name}: {dtype_name(dtype)} array of shape {shown(shape)}, expected bool "
                f"{list(rows.shape[:1])} like the rows of the features beside it, True where the "
                f"item has the modality; one of the two files is wrong"
            )

    present = read_npy(path, "a bool array [items]", check)
    if not present.any():
        raise DatasetError(
            f"{path.name}: no item has the modality, expected at least one; remove its files"
        )
    return present


def modalities_with(folder: Path, suffix: str) -> list[str]:
    """Names of the modalities that have a file with this suffix, sorted."""
    return sorted(name.removesuffix(suffix) for name in names_with(folder, suffix))
