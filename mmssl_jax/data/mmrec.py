"""The layout of MMRec: one <name>.inter table, tab-separated, split by its column x_label."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.data.dataset import (
    MAX_ID,
    SPLITS,
    DatasetError,
    Interactions,
    read_bytes,
    unique_edges,
)

COLUMNS = ("userID", "itemID", "x_label")
WHOLE_NUMBER = re.compile(r"[0-9]{1,10}")


def read_interactions(folder: Path) -> Interactions:
    """Read the table; x_label 0, 1, 2 is train, validation, test; n_users is the largest id + 1.

    Raises DatasetError on no or several tables, missing columns, ragged rows and ids that are not
    whole numbers from 0.
    """
    path = _table(folder)
    header, rows = _read_rows(path)
    users, items, labels = (_numbers(path.name, name, header, rows) for name in COLUMNS)
    _check_labels(path.name, labels)
    splits = {
        split: unique_edges(users[labels == k], items[labels == k], f"{path.name}, x_label {k}")
        for k, split in enumerate(SPLITS)
    }
    files = {split: f"{path.name}, x_label {k}" for k, split in enumerate(SPLITS)}
    return Interactions(splits=splits, files=files, n_users=1 + int(users.max(initial=-1)))


def _table(folder: Path) -> Path:
    paths = sorted(folder.glob("*.inter"))
    if len(paths) != 1:
        found = ", ".join(path.name for path in paths) or "none"
        raise DatasetError(f"{folder}: found {found}, expected exactly one <name>.inter")
    return paths[0]


def _read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header fields and row fields; every row as wide as the header."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path.name}: not UTF-8 ({error}), expected a text table") from error
    header, *rows = [line.rstrip("\r").split("\t") for line in text.rstrip("\r\n").split("\n")]
    for name in COLUMNS:
        if header.count(name) != 1:
            raise DatasetError(
                f"{path.name}: line 1 names the columns {', '.join(header)}; expected one {name!r} "
                f"among them, separated by tabs"
            )
    ragged = next((k for k, row in enumerate(rows) if len(row) != len(header)), None)
    if ragged is not None:
        raise DatasetError(
            f"{path.name}: line {ragged + 2} has {len(rows[ragged])} fields, expected "
            f"{len(header)} as in line 1, separated by tabs"
        )
    return header, rows


def _numbers(file: str, column: str, header: list[str], rows: list[list[str]]) -> NDArray[np.int64]:
    """One column as int64 [E]."""
    place = header.index(column)
    texts = [row[place] for row in rows]
    for k, text in enumerate(texts):
        if not WHOLE_NUMBER.fullmatch(text) or int(text) > MAX_ID:
            raise DatasetError(
                f"{file}: line {k + 2}, {column} is {text!r}, expected a whole number from 0 to "
                f"{MAX_ID}"
            )
    return np.array(texts, dtype=np.str_).astype(np.int64) if texts else np.zeros(0, np.int64)


def _check_labels(file: str, labels: NDArray[np.int64]) -> None:
    wrong = np.flatnonzero(labels >= len(SPLITS))
    if len(wrong):
        raise DatasetError(
            f"{file}: line {wrong[0] + 2}, x_label is {labels[wrong[0]]}, expected 0 (train), "
            f"1 (validation) or 2 (test)"
        )
