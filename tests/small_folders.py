"""Small dataset folders in each layout, which tests of the readers write and break."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix

from mmssl_jax.data import diffmm, hkuds

Pairs = list[tuple[int, int]]
SPLITS: dict[str, Pairs] = {
    "train": [(0, 1), (0, 3), (1, 4), (2, 0)],
    "validation": [(0, 2)],
    "test": [(2, 1), (3, 2)],
}
SHAPE = (4, 5)  # users, items
FEATURES = {
    "audio": np.ones((5, 2), np.float32),
    "image": np.arange(1, 16, dtype=np.float32).reshape(5, 3),
}


def write_hkuds(folder: Path, splits: Mapping[str, Pairs], shape: tuple[int, int]) -> None:
    """Every user is a key of train.json, since the files say nothing else of their number."""
    for file, pairs in zip(hkuds.FILES, splits.values(), strict=True):
        lists: dict[str, list[int]] = {}
        if file == "train.json":
            lists = {str(user): [] for user in range(shape[0])}
        for user, item in pairs:
            lists.setdefault(str(user), []).append(item)
        (folder / file).write_text(json.dumps(lists))


def write_mmrec(folder: Path, splits: Mapping[str, Pairs], shape: tuple[int, int]) -> None:
    lines = ["userID\titemID\trating\tx_label"]
    for label, pairs in enumerate(splits.values()):
        lines += [f"{user}\t{item}\t5.0\t{label}" for user, item in pairs]
    (folder / "toys.inter").write_text("\n".join(lines) + "\n")


def write_diffmm(folder: Path, splits: Mapping[str, Pairs], shape: tuple[int, int]) -> None:
    for file, pairs in zip(diffmm.FILES, splits.values(), strict=True):
        (folder / file).write_bytes(pickle.dumps(matrix(pairs, shape), protocol=4))


def matrix(pairs: Pairs, shape: tuple[int, int] = SHAPE, **state: Any) -> coo_matrix:
    """A COO matrix; `state` sets attributes after SciPy's own checks."""
    rows, columns = np.array(pairs, np.int32).reshape(-1, 2).T
    made = coo_matrix((np.ones(len(pairs)), (rows, columns)), shape=shape)
    made.__dict__.update(state)
    return made


WRITERS = {"hkuds": write_hkuds, "mmrec": write_mmrec, "diffmm": write_diffmm}


def write_small(folder: Path, layout: str) -> None:
    """SPLITS and FEATURES in a layout, with raw ids and a mask of `image`."""
    WRITERS[layout](folder, SPLITS, SHAPE)
    for name, rows in FEATURES.items():
        np.save(folder / f"{name}_feat.npy", rows)
    (folder / "user_ids.json").write_text(json.dumps(["ann", "bob", "cy", "dee"]))
    (folder / "item_ids.json").write_text(json.dumps(["B0", "B1", "B2", "B3", "B4"]))
    np.save(folder / "image_mask.npy", np.arange(5) < 4)
