"""Optional files of every layout: raw ids, and which items have a modality."""

import json
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.data.dataset import DatasetError, read_bytes

MASK_SUFFIX = "_mask.npy"


def read_ids(path: Path, size: int) -> np.ndarray:
    """Raw ids [size] from a JSON list of strings; 0, 1, .. if there is no such file.

    Raises DatasetError on anything but `size` different strings.
    """
    if not path.is_file():
        return np.arange(size)
    try:
        ids = json.loads(read_bytes(path).decode("utf-8-sig"))
    except DatasetError:
        raise
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path.name}: malformed JSON ({error}); expected a list of raw ids as strings"
        ) from error
    if not isinstance(ids, list):
        raise DatasetError(
            f"{path.name}: the top level is a JSON {type(ids).__name__}, expected a list of raw "
            f'ids as strings, like ["B0001", "B0002"]'
        )
    for place, raw in enumerate(ids):
        if not isinstance(raw, str) or not raw or "\0" in raw:
            raise DatasetError(
                f"{path.name}: entry {place} is {json.dumps(raw)}, expected a raw id as a "
                f"non-empty string"
            )
    if len(ids) != size:
        raise DatasetError(
            f"{path.name}: {len(ids)} ids, expected {size}; entry i is the raw id of number i"
        )
    _refuse_repeats(path.name, ids)
    return np.array(ids, dtype=np.str_) if ids else np.zeros(0, np.str_)


def _refuse_repeats(file: str, ids: list[str]) -> None:
    places: dict[str, int] = {}
    for place, raw in enumerate(ids):
        if places.setdefault(raw, place) != place:
            raise DatasetError(
                f"{file}: {raw!r} is entry {places[raw]} and entry {place}, expected each id once"
            )


def read_masks(
    folder: Path, features: dict[str, NDArray[np.float32]], suffix: str, found: Iterable[str]
) -> dict[str, NDArray[np.bool_]]:
    """{modality: bool [I]} from <modality>_mask.npy, of the modalities that some item lacks.

    The feature rows of items that lack a modality become 0 in place, whatever they hold.
    suffix: of the feature files. found: modalities of the folder, read or not.
    Raises DatasetError on a mask without features, or of another type or length.
    """
    for path in sorted(folder.glob("?*" + MASK_SUFFIX)):
        modality = path.name.removesuffix(MASK_SUFFIX)
        if modality not in found:
            raise DatasetError(
                f"{folder}: {path.name} without {modality}{suffix}: a mask says which rows of the "
                f"features are there; add the features or remove the mask"
            )
    masks = {}
    for modality, rows in features.items():
        path = folder / f"{modality}{MASK_SUFFIX}"
        if not path.is_file():
            continue
        present = _read_mask(path, rows)
        rows[~present] = 0
        if not present.all():
            masks[modality] = present
    return masks


def _read_mask(path: Path, rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    try:
        present = np.lib.format.read_array(BytesIO(read_bytes(path)), allow_pickle=False)
    except DatasetError:
        raise
    except (ValueError, EOFError, SyntaxError, TypeError, MemoryError) as error:
        raise DatasetError(
            f"{path.name}: not a usable .npy file ({error}); expected a bool array [items]"
        ) from error
    if present.dtype != bool or present.shape != rows.shape[:1]:
        raise DatasetError(
            f"{path.name}: {present.dtype} array of shape {present.shape}, expected bool "
            f"{list(rows.shape[:1])} like the rows of the features beside it, True where the item "
            f"has the modality; one of the two files is wrong"
        )
    if not present.any():
        raise DatasetError(
            f"{path.name}: no item has the modality, expected at least one; remove its files"
        )
    return present
