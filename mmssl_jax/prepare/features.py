"""Ready features keyed by raw item id, from .npz, .npy with a file of ids, or .parquet."""

import json
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.prepare.content import Content, collect
from mmssl_jax.prepare.tables import id_strings, import_polars, read_table, refuse_repeats


def feature_content(item_ids: Sequence[str], file: str, id_column: str) -> Content:
    """The rows of the items in `file`; an item without a row, or of only NaN, lacks the modality.

    file: FILE.npz, FILE.parquet or FILE.npy@IDS. Rows of other items are not used.
    Raises DatasetError for a file that cannot be used.
    """
    ids, rows = _read(file, id_column)
    if rows.ndim != 2 or not rows.shape[1] or rows.dtype.kind not in "fiu":
        raise DatasetError(
            f"{file}: features are {rows.dtype} of shape {rows.shape}, expected numbers "
            "[rows, width]"
        )
    if len(ids) != len(rows):
        raise DatasetError(f"{file}: {len(ids)} ids for {len(rows)} rows, expected one id per row")
    refuse_repeats(ids, file)
    with np.errstate(over="ignore"):  # what overflows becomes infinite, which is refused here
        rows = rows.astype(np.float32)
    absent = np.isnan(rows).all(axis=1)
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1) & ~absent)
    if len(wrong):
        raise DatasetError(
            f"{file}: {len(wrong)} rows hold NaN or infinite values among numbers, the first is of "
            f"item {ids[wrong[0]]!r}; expected finite numbers, or NaN in the whole row of an item "
            "that lacks the modality"
        )
    by_id = {raw: row for raw, row, gone in zip(ids, rows, absent, strict=True) if not gone}
    known = set(ids)
    reasons = {
        "no_row": [raw for raw in item_ids if raw not in known],
        "only_nan": [raw for raw in item_ids if raw in known and raw not in by_id],
    }
    content = collect(item_ids, item_ids, by_id, file, reasons)
    content.report["unused_rows"] = len(known.difference(item_ids))
    return content


def _read(file: str, id_column: str) -> tuple[list[str], np.ndarray]:
    path, _, ids_file = file.partition("@")
    suffix = Path(path).suffix.lower()
    if suffix not in (".npz", ".npy", ".parquet"):
        raise DatasetError(f"{path}: suffix {suffix!r}, expected .npz, .npy or .parquet")
    if (suffix == ".npy") != bool(ids_file):
        raise DatasetError(
            f"{file}: an .npy file needs a file of ids behind an @, as FILE.npy@IDS, and others "
            "take none"
        )
    if suffix == ".parquet":
        return _read_parquet(path, id_column)
    try:
        with Path(path).open("rb") as opened:
            loaded = np.load(opened, allow_pickle=False)
            if suffix == ".npy":
                return _read_ids(ids_file), loaded
            return _strings(loaded["ids"], path), loaded["features"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DatasetError(
            f"{path}: cannot be read ({error}); expected "
            + ("an array" if suffix == ".npy" else "arrays `ids` and `features`")
            + " saved by NumPy without pickled objects"
        ) from error


def _strings(ids: np.ndarray, file: str) -> list[str]:
    if ids.ndim != 1 or ids.dtype.kind not in "iuUS":
        raise DatasetError(
            f"{file}: ids are {ids.dtype} of shape {ids.shape}, expected a list of strings or "
            "whole numbers"
        )
    return [raw.decode() if isinstance(raw, bytes) else str(raw) for raw in ids.tolist()]


def _read_ids(file: str) -> list[str]:
    """Raw ids from a JSON list, or from a text file of one a line."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
        if Path(file).suffix.lower() != ".json":
            return text.splitlines()
        ids = json.loads(text)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: cannot be read as a file of ids ({error})") from error
    if not isinstance(ids, list) or not all(type(raw) in (str, int) for raw in ids):
        raise DatasetError(f"{file}: expected a JSON list of strings or whole numbers")
    return [str(raw) for raw in ids]


def _read_parquet(file: str, id_column: str) -> tuple[list[str], np.ndarray]:
    """The id column, and one column of equally long lists or all numeric columns."""
    pl = import_polars()
    table = read_table(file)
    if id_column not in table.columns:
        found = ", ".join(table.columns)
        raise DatasetError(f"{file}: no column {id_column!r}, the ids; its columns are {found}")
    ids = id_strings(table[id_column], file).to_list()
    rest = table.drop(id_column)
    nested = [name for name, kind in rest.schema.items() if kind.is_nested()]
    if not nested:
        numeric = rest.select(pl.selectors.numeric())
        return ids, numeric.cast(pl.Float64).to_numpy()
    if len(nested) > 1:
        raise DatasetError(f"{file}: columns of lists {', '.join(nested)}, expected one")
    lists = rest[nested[0]].to_list()
    widths = {len(row) for row in lists if row is not None}
    if len(widths) != 1:
        raise DatasetError(
            f"{file}: column {nested[0]!r} has lists of lengths {sorted(widths)}, expected one"
        )
    nothing = [np.nan] * widths.pop()
    return ids, np.array([nothing if row is None else row for row in lists], dtype=float)
