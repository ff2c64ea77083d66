"""The dataset every later stage reads, and the checks it must pass first.

Legend: U users, I items, E interactions (edges), F feature width. Users and items count from 0.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.messages import clipped, shown

SPLITS = ("train", "validation", "test")
MAX_ID = 10**8 - 1  # far above any public dataset: a larger id is a raw id that nobody renumbered


class DatasetError(ValueError):
    """Input that cannot be used; the message says what was found, what was expected and where.

    No message is long, or holds control characters, whatever the input holds.
    """

    def __init__(self, message: str) -> None:
        super().__init__(clipped(message))


class DatasetWarning(UserWarning):
    """Input that was repaired on the way in; the message says how and how much of it."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """What a layout's files say, before features are known.

    splits: {split: int32 [E, 2], sorted, unique}. files: {split: file name}. n_items: None where
    the layout does not state it.
    """

    splits: dict[str, NDArray[np.int32]]
    files: dict[str, str]
    n_users: int
    n_items: int | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Implicit feedback in three splits, with one feature row per item and modality.

    user_ids [U], item_ids [I]: raw ids (int or str). train, validation, test: int32 [E, 2], rows
    (user, item), sorted, unique. features: {modality: float32 [I, F]}, keys sorted.
    files: for messages only, which file a split or a modality came from.
    presence: {modality: bool [I], whether the item has it}, for the modalities that some items
    lack; the features of such items are finite and never read.
    """

    name: str
    source: str
    user_ids: np.ndarray
    item_ids: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    features: dict[str, np.ndarray]
    files: Mapping[str, str] = field(default_factory=dict)
    presence: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def n_users(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.item_ids)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modality names, sorted."""
        return tuple(self.features)

    @property
    def splits(self) -> dict[str, np.ndarray]:
        """{"train", "validation", "test": int32 [E, 2]}."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def check(self, needs_features: bool = True) -> None:
        """Raise DatasetError on the first thing training or evaluation could not use.

        Users and items without training interactions are legal, and so is an empty held-out split;
        no features at all are where nothing needs them.
        """
        if self.features or needs_features:
            _check_features(self.features, self.files, self.n_items)
        for modality, present in self.presence.items():
            _check_presence(modality, present, self.modalities, self.n_items)
        for split, edges in self.splits.items():
            _check_edges(self.files.get(split, split), edges, self.n_users, self.n_items)
        if not len(self.train):
            raise DatasetError(
                f"{self.files.get('train', 'train')}: no training interactions, expected at least "
                f"one (user, item) pair; is the file empty, or the wrong split?"
            )
        for first, second in combinations(SPLITS, 2):
            self._check_disjoint(first, second)
        self._check_negatives_exist()

    def fingerprint(self) -> str:
        """Hex SHA-256 of ids, splits, features and presence: equal content, equal fingerprint.

        The name and the folder do not count, so a moved copy still matches its checkpoints.
        """
        digest = hashlib.sha256()
        for label, part in _content(self):
            digest.update(f"{label} {len(part)}\n".encode())
            digest.update(part)
        return digest.hexdigest()

    def summary(self) -> str:
        """A table of sizes, density and cold users and items, as printed before training."""
        rows = [
            ("dataset", clipped(f"{self.name} ({self.source})")),
            ("users", f"{self.n_users:,}"),
            ("items", f"{self.n_items:,}"),
            *((f"{split} interactions", f"{len(e):,}") for split, e in self.splits.items()),
            ("density, all splits", f"{self._density():.4%}"),
            *((f"modality {m}", self._modality_line(m)) for m in self.modalities),
            ("users without training interactions", f"{self._untrained(0, self.n_users):,}"),
            ("items without training interactions", f"{self._untrained(1, self.n_items):,}"),
        ]
        width = max(len(label) for label, _ in rows)
        return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)

    def missing_rate(self, modality: str) -> float:
        """Share of the items that lack the modality."""
        present = self.presence.get(modality)
        return 0.0 if present is None else 1.0 - float(present.mean())

    def _modality_line(self, modality: str) -> str:
        width = f"width {self.features[modality].shape[1]:,}"
        if modality not in self.presence:
            return width
        return f"{width}, {self.missing_rate(modality):.2%} of the items lack it"

    def _density(self) -> float:
        pairs = sum(len(edges) for edges in self.splits.values())
        return pairs / max(self.n_users * self.n_items, 1)

    def _untrained(self, column: int, size: int) -> int:
        return size - len(np.unique(self.train[:, column]))

    def _check_disjoint(self, first: str, second: str) -> None:
        one, other = (_pair_keys(self.splits[split], self.n_items) for split in (first, second))
        shared = np.intersect1d(one, other, assume_unique=True)
        if len(shared):
            user, item = divmod(int(shared[0]), self.n_items)
            raise DatasetError(
                f"{self.files.get(first, first)} and {self.files.get(second, second)}: "
                f"{len(shared)} (user, item) pairs are in both, the first is user {user}, item "
                f"{item}; expected each pair in one split; remove it from one of them"
            )

    def _check_negatives_exist(self) -> None:
        degrees = np.bincount(self.train[:, 0], minlength=self.n_users)
        full = np.flatnonzero(degrees >= self.n_items)
        if len(full):
            raise DatasetError(
                f"{self.files.get('train', 'train')}: user {full[0]} has all {self.n_items} items "
                f"in training, expected at least one left over as a negative; remove such users "
                f"({len(full)} found)"
            )


def unique_edges(
    users: NDArray[np.integer], items: NDArray[np.integer], file: str
) -> NDArray[np.int32]:
    """Pairs sorted by user, then item, with duplicates merged under a DatasetWarning.

    users [E], items [E], ids up to MAX_ID -> int32 [E', 2]. file: what the warning names.
    """
    edges = np.stack([users, items], axis=1).astype(np.int32)
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
    first = np.ones(len(edges), dtype=bool)
    first[1:] = (edges[1:] != edges[:-1]).any(axis=1)
    repeats = len(edges) - int(first.sum())
    if repeats:
        user, item = edges[np.flatnonzero(~first)[0]]
        warnings.warn(
            f"{file}: merged {repeats} duplicate interactions, "
            f"the first is user {user}, item {item}",
            DatasetWarning,
            stacklevel=3,
        )
    return edges[first]


def _content(data: Dataset) -> Iterator[tuple[str, bytes]]:
    """The labelled parts of a fingerprint, the same bytes on every machine."""
    for label, ids in (("users", data.user_ids), ("items", data.item_ids)):
        yield f"{label} {ids.dtype.kind}", "\0".join(map(str, ids.tolist())).encode()
    for split, edges in data.splits.items():
        yield split, np.ascontiguousarray(edges, dtype="<i4").tobytes()
    for modality, rows in data.features.items():
        label = f"feature {modality} {rows.shape}"
        yield label, np.ascontiguousarray(rows, dtype="<f4").tobytes()
    for modality in sorted(data.presence):
        yield f"presence {modality}", np.ascontiguousarray(data.presence[modality]).tobytes()


def _pair_keys(edges: NDArray[np.int32], n_items: int) -> NDArray[np.int64]:
    """int32 [E, 2] -> one int64 per pair, in the same order."""
    return edges[:, 0].astype(np.int64) * n_items + edges[:, 1]


def _check_features(
    features: Mapping[str, np.ndarray], files: Mapping[str, str], n_items: int
) -> None:
    if not features:
        raise DatasetError(
            "no modality: found no item features, expected at least one <modality>_feat.npy"
        )
    for modality, rows in features.items():
        _check_feature_rows(files.get(modality, f"features of {modality}"), rows)
    sizes = {files.get(m, f"features of {m}"): len(rows) for m, rows in features.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{file} has {size} rows" for file, size in sizes.items())
        raise DatasetError(
            f"{found}; expected the same number, one row per item in the same order; re-export them"
        )
    file, size = next(iter(sizes.items()))
    if size != n_items:
        raise DatasetError(f"{file}: {size} rows, expected one for each of the {n_items} items")


def _check_feature_rows(file: str, rows: np.ndarray) -> None:
    if rows.ndim != 2 or not all(rows.shape):
        raise DatasetError(
            f"{file}: an array of shape {rows.shape}, expected 2-d [items, width], neither 0"
        )
    if rows.dtype != np.float32:
        raise DatasetError(f"{file}: dtype {rows.dtype}, expected float32; cast it on reading")
    finite = np.isfinite(rows)
    if not finite.all():
        row, column = divmod(int(np.argmin(finite)), rows.shape[1])
        raise DatasetError(
            f"{file}: {finite.size - int(finite.sum())} values are NaN or infinite as float32, the "
            f"first in row {row}, column {column} (counted from 0); expected finite numbers; "
            f"replace them, for example by the column mean, or mask the items that lack them"
        )


def _check_presence(
    modality: str, present: np.ndarray, modalities: Sequence[str], n_items: int
) -> None:
    if modality not in modalities:
        raise DatasetError(
            f"presence of modality {shown(modality)}, which has no features; expected one of "
            f"{', '.join(modalities)}"
        )
    if present.dtype != bool or present.shape != (n_items,):
        raise DatasetError(
            f"presence of modality {shown(modality)}: {present.dtype} array of shape "
            f"{present.shape}, expected bool [{n_items}], True where the item has the modality"
        )
    if not present.any():
        raise DatasetError(
            f"presence of modality {shown(modality)}: no item has it, expected at least one; "
            f"leave the modality out"
        )


def _check_edges(file: str, edges: np.ndarray, n_users: int, n_items: int) -> None:
    """One split: form, then ids, then order."""
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype != np.int32:
        raise DatasetError(
            f"{file}: {edges.dtype} array of shape {edges.shape}, expected int32 [interactions, 2]"
        )
    outside = (edges < 0) | (edges >= [[n_users, n_items]])
    if outside.any():
        _refuse_id(file, edges[outside.any(axis=1)][0], n_users, n_items)
    if (np.diff(_pair_keys(edges, n_items)) <= 0).any():
        raise DatasetError(
            f"{file}: pairs are unsorted or repeated, expected each pair once, sorted by user, "
            f"then item; build the split with unique_edges"
        )


def _refuse_id(file: str, pair: NDArray[np.int32], n_users: int, n_items: int) -> None:
    user, item = pair.tolist()
    if not 0 <= user < n_users:
        raise DatasetError(
            f"{file}: user {user} with item {item}, expected user ids 0 to {n_users - 1}"
        )
    raise DatasetError(
        f"{file}: user {user} has item {item}, expected item ids 0 to {n_items - 1} because the "
        f"features have {n_items} rows; ids are 0-based row numbers of the feature files"
    )
