"""One entry to the public layouts: find the layout, read the features, assemble and check."""

import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.data import diffmm, hkuds, mmrec
from mmssl_jax.data.annexes import modalities_with, read_ids, read_masks
from mmssl_jax.data.arrays import dtype_name, read_npy
from mmssl_jax.data.dataset import Dataset, DatasetError, DatasetWarning, Interactions
from mmssl_jax.data.numbering import refuse_far_id
from mmssl_jax.data.sources import file_names
from mmssl_jax.files import user_path
from mmssl_jax.messages import shown

READERS = {
    "hkuds": hkuds.read_interactions,
    "diffmm": diffmm.read_interactions,
    "mmrec": mmrec.read_interactions,
}
MARKERS = {"hkuds": hkuds.FILES, "diffmm": diffmm.FILES, "mmrec": ("*.inter",)}
LAYOUTS = ("auto", *READERS)
SUFFIX = "_feat.npy"


def read_dataset(
    path: str | Path,
    layout: str = "auto",
    modalities: Sequence[str] | None = None,
    needs_features: bool = True,
) -> Dataset:
    """Read a folder in one of the public layouts into a checked Dataset.

    layout: one of LAYOUTS. modalities: names to read, None for every <modality>_feat.npy.
    needs_features: whether a folder without features is refused.
    Optional files: user_ids.json, item_ids.json, <modality>_mask.npy.
    Raises DatasetError on anything missing, malformed or unusable; warns of merged duplicates.
    """
    folder = user_path(path)
    interactions = READERS[_layout(folder, layout)](folder)
    features = read_features(folder, modalities, needs_features)
    dataset = _assemble(folder, interactions, features)
    dataset.check(needs_features)
    warn_of_zero_features(dataset)
    return dataset


def warn_of_zero_features(dataset: Dataset) -> None:
    """A DatasetWarning for each modality in which items have features of zero, the mark of content
    that is not there."""
    for modality, rows in dataset.features.items():
        zero = ~rows.any(axis=1) & dataset.presence.get(modality, np.ones(len(rows), bool))
        if zero.any():
            warnings.warn(
                f"{dataset.files.get(modality, modality)}: {int(zero.sum()):,} of {len(rows):,} "
                f"items have features of zero, the first is item {int(np.flatnonzero(zero)[0])}; "
                f"if they lack this modality, say so in {modality}_mask.npy",
                DatasetWarning,
                stacklevel=3,
            )


def read_features(
    folder: Path, modalities: Sequence[str] | None = None, needs_features: bool = True
) -> dict[str, NDArray[np.float32]]:
    """{modality: float32 [I, F]} from <modality>_feat.npy, sorted by name; values unchecked."""
    found = modalities_with(folder, SUFFIX)
    if not found and not modalities and not needs_features:
        return {}
    if not found:
        raise DatasetError(
            f"{folder}: no modality: expected at least one <modality>{SUFFIX}, "
            f"found {_listing(folder)}"
        )
    wanted = found if modalities is None else sorted(set(modalities))
    if not wanted:
        raise DatasetError(f"no modality selected, expected some of {', '.join(found)}")
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise DatasetError(
            f"{folder}: no {shown(unknown[0])[1:-1]}{SUFFIX} for modality {shown(unknown[0])}; "
            f"expected some of {', '.join(found)}"
        )
    return {name: _read_rows(folder / f"{name}{SUFFIX}") for name in wanted}


def _read_rows(path: Path) -> NDArray[np.float32]:
    """The array of one file as float32, before any sum: float16 would overflow in one."""

    def check(dtype: np.dtype, shape: tuple[int, ...]) -> None:
        if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
            raise DatasetError(
                f"{path.name}: dtype {dtype_name(dtype)}, expected float16, float32 or float64"
            )
        if len(shape) != 2 or not all(shape):
            raise DatasetError(
                f"{path.name}: an array of shape {shown(shape)}, expected 2-d [items, width], "
                f"neither 0"
            )

    rows = read_npy(path, "a float array without pickled objects", check)
    with np.errstate(over="ignore"):  # what overflows becomes infinite, which check() reports
        return rows.astype(np.float32, order="C", copy=False)


def _layout(folder: Path, layout: str) -> str:
    """The layout asked for, or for "auto" the only one whose files are there."""
    if layout not in LAYOUTS:
        raise DatasetError(f"layout {shown(layout)}, expected one of {', '.join(LAYOUTS)}")
    if layout != "auto":
        return layout
    there = file_names(folder)
    present = {
        name: [file for file in there if any(fnmatchcase(file, pattern) for pattern in patterns)]
        for name, patterns in MARKERS.items()
    }
    matches = [name for name, files in present.items() if files]
    if len(matches) == 1:
        return matches[0]
    if matches:
        found = "; ".join(f"{name}: {', '.join(present[name])}" for name in matches)
        raise DatasetError(
            f"{folder}: files of several layouts, {found}; "
            "choose one with data.format (layout= in Python)"
        )
    expected = "; ".join(f"{name}: {', '.join(patterns)}" for name, patterns in MARKERS.items())
    raise DatasetError(
        f"{folder}: no layout matches, expected the files of one ({expected}), "
        f"found {_listing(folder)}"
    )


def _assemble(
    folder: Path, interactions: Interactions, features: dict[str, NDArray[np.float32]]
) -> Dataset:
    files = {name: f"{name}{SUFFIX}" for name in features} | interactions.files
    n_items = _n_items(interactions, features, files)
    of_items = f"rows of {files[next(iter(features))]}" if features else "items"
    presence = read_masks(folder, features, SUFFIX, modalities_with(folder, SUFFIX))
    return Dataset(
        name=folder.resolve().name,
        source=str(folder),
        user_ids=read_ids(folder / "user_ids.json", interactions.n_users, "users"),
        item_ids=read_ids(folder / "item_ids.json", n_items, of_items),
        train=interactions.splits["train"],
        validation=interactions.splits["validation"],
        test=interactions.splits["test"],
        features=features,
        files=files,
        presence=presence,
    )


def _n_items(
    interactions: Interactions, features: dict[str, NDArray[np.float32]], files: dict[str, str]
) -> int:
    """The rows of the features; without any what the layout says, or else the last item's place."""
    if not features:
        return _n_items_without_features(interactions)
    first = next(iter(features))
    n_items = len(features[first])
    if interactions.n_items not in (None, n_items):
        raise DatasetError(
            f"{files[first]}: {n_items} rows, but {interactions.files['train']} has "
            f"{interactions.n_items} columns; expected one feature row per item"
        )
    return n_items


def _n_items_without_features(interactions: Interactions) -> int:
    """What the layout says, or else the last item's place; an item far beyond the others is
    refused."""
    items = {name: edges[:, 1] for name, edges in interactions.splits.items() if len(edges)}
    if not items:
        return interactions.n_items or 0
    split = max(items, key=lambda name: items[name].max())
    largest = int(items[split].max()) if interactions.n_items is None else interactions.n_items - 1
    n_named = len(np.unique(np.concatenate(list(items.values()))))
    refuse_far_id(interactions.files[split], "item", largest, n_named)
    return largest + 1


def _listing(folder: Path) -> str:
    """Up to ten file names, for a message."""
    names = [name if name.isprintable() else shown(name) for name in file_names(folder)]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return (", ".join(names[:10]) + more) if names else "an empty folder"
