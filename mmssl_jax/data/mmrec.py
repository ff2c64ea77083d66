"""The layout of MMRec: one <name>.inter table, tab-separated, split by its column x_label."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.data.dataset import MAX_ID, SPLITS, DatasetError, Interactions, unique_edges
from mmssl_jax.data.numbering import PLAIN_DECIMAL, refuse_far_id
from mmssl_jax.data.sources import names_with, read_text
from mmssl_jax.messages import shown

COLUMNS = ("userID", "itemID", "x_label")
SEPARATORS = {",": "commas", ";": "semicolons", "|": "bars", " ": "blanks"}


def read_interactions(folder: Path) -> Interactions:
    """Read the table; x_label 0, 1, 2 is train, validation, test; n_users is the largest id + 1.

    Raises DatasetError on no or several tables, missing columns, ragged rows, ids that are not
    whole numbers from 0, and a user id far beyond the others.
    """
    path = _table(folder)
    header, rows = _read_rows(path)
    users, items, labels = (_numbers(path.name, name, header, rows) for name in COLUMNS)
    _check_labels(path.name, labels)
    if len(users):
        line = int(np.argmax(users)) + 2
        refuse_far_id(f"{path.name}, line {line}", "user", int(users.max()), len(np.unique(users)))
    splits = {
        split: unique_edges(users[labels == k], items[labels == k], f"{path.name}, x_label {k}")
        for k, split in enumerate(SPLITS)
    }
    files = {split: f"{path.name}, x_label {k}" for k, split in enumerate(SPLITS)}
    return Interactions(splits=splits, files=files, n_users=1 + int(users.max(initial=-1)))


def _table(folder: Path) -> Path:
    names = names_with(folder, ".inter")
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise DatasetError(f"{folder}: found {found}, expected exactly one <name>.inter")
    return folder / names[0]


def _read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header fields and row fields; every row as wide as the header.

    Lines end as on any system. Quotation marks mean nothing, so a field that only opens with one is
    refused: its writer meant tabs or line ends inside it.
    """
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    first, *lines = text.split("\n")
    header = first.split("\t")
    for name in COLUMNS:
        if header.count(name) != 1:
            raise DatasetError(
                f"{path.name}: line 1 names the columns {shown(', '.join(header))}"
                f"{_other_separator(header)}; expected one {name!r} among them, separated by tabs"
            )
    rows = []
    for number, line in enumerate(lines, 2):
        rows.append(line.split("\t"))
        if len(rows[-1]) != len(header):
            found = f"has {len(rows[-1])} fields" if line else "is blank"
            raise DatasetError(
                f"{path.name}: line {number} {found}, expected {len(header)} fields as in line 1, "
                f"separated by tabs; write the table again, without tabs or line ends inside fields"
            )
    if '"' in text:
        _refuse_open_quotes(path.name, rows)
    return header, rows


def _other_separator(header: list[str]) -> str:
    """What a header of one field seems to be separated by instead of tabs."""
    found = [name for mark, name in SEPARATORS.items() if len(header) == 1 and mark in header[0]]
    return f", separated by {found[0]}" if found else ""


def _refuse_open_quotes(file: str, rows: list[list[str]]) -> None:
    for line, row in enumerate(rows, 2):
        for field in row:
            if field.startswith('"') and (len(field) == 1 or not field.endswith('"')):
                raise DatasetError(
                    f"{file}: line {line} has the field {shown(field)}, which opens with a "
                    f"quotation mark and does not close with one; expected fields without tabs or "
                    f"line ends inside, which need no quotation marks; leave that column out"
                )


def _numbers(file: str, column: str, header: list[str], rows: list[list[str]]) -> NDArray[np.int64]:
    """One column as int64 [E]."""
    place = header.index(column)
    texts = [row[place] for row in rows]
    for k, text in enumerate(texts):
        if not PLAIN_DECIMAL.fullmatch(text) or int(text) > MAX_ID:
            raise DatasetError(
                f"{file}: line {k + 2}, {column} is {shown(text)}, expected a whole number from 0 "
                f"to {MAX_ID}; raw ids are numbered by `python -m mmssl_jax.prepare`"
            )
    return np.array(texts, dtype=np.str_).astype(np.int64) if texts else np.zeros(0, np.int64)


def _check_labels(file: str, labels: NDArray[np.int64]) -> None:
    wrong = np.flatnonzero(labels >= len(SPLITS))
    if len(wrong):
        raise DatasetError(
            f"{file}: line {wrong[0] + 2}, x_label is {labels[wrong[0]]}, expected 0 (train), "
            f"1 (validation) or 2 (test)"
        )
