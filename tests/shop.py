"""Raw data that tests of `mmssl_jax.prepare` read, and encoders that count their calls."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

calls: list[str] = []  # every input that an encoder here was asked for


def letters(texts: Sequence[str], model: str, batch_size: int) -> np.ndarray:
    """Counts of a, b, c."""
    calls.extend(texts)
    return np.array([[text.count(c) for c in "abc"] for text in texts], np.float64)


def file_sizes(paths: Sequence[str], model: str, batch_size: int) -> np.ndarray:
    """The size of each file, twice."""
    calls.extend(paths)
    return np.array([[Path(path).stat().st_size] * 2 for path in paths], np.float32)


def broken(texts: Sequence[str], model: str, batch_size: int) -> np.ndarray:
    """What no encoder may return."""
    return {"ints": np.ones((len(texts), 2), int), "nan": np.full((len(texts), 2), np.nan)}.get(
        model, np.ones((1, 2))
    )


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> Path:
    """A CSV, or a TSV by its name."""
    with path.open("w", newline="", encoding="utf-8") as file:
        separator = "\t" if path.suffix == ".tsv" else ","
        csv.writer(file, delimiter=separator).writerows([header, *rows])
    return path
