"""Rows of numbers keyed by raw id, read in parts: .npy, .npz and .parquet files of features."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.messages import shown
from mmssl_jax.prepare.delimited import missing_column
from mmssl_jax.prepare.ids import id_strings, shown_type
from mmssl_jax.prepare.npz import read_npz
from mmssl_jax.prepare.paths import input_file, reason_of, split_features
from mmssl_jax.prepare.polars_module import import_polars
from mmssl_jax.prepare.tables import parquet_errors, scan_parquet

WIDEST = 2**20  # numbers in a row: more is another thing than a vector of features
BYTES_AT_ONCE = 2**21


class Vectors(NamedTuple):
    """ids: of the file's rows, unchecked for repeats. width: numbers in a row. parts: numeric
    [n, width] arrays, the rows in order; a row of NaN is of an item without the modality."""

    ids: list[str]
    width: int
    parts: Iterator[np.ndarray]


def read_vectors(file: str, id_column: str) -> Vectors:
    """FILE.npz, FILE.parquet or FILE.npy@IDS; the parts are read when they are asked for.

    Raises DatasetError for a file that cannot be used, also while parts are read.
    """
    path, ids_file = split_features(file)
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".npy", ".parquet"):
        raise DatasetError(f"{path}: suffix {suffix!r}, expected .npz, .npy or .parquet")
    if suffix == ".npy" and ids_file is None:
        raise DatasetError(f"{path}: an .npy file needs a file of ids behind an @, as FILE.npy@IDS")
    input_file(path)
    if suffix == ".parquet":
        return _of_parquet(path, id_column)
    if ids_file is not None:
        return _of_array(path, _read_ids(input_file(ids_file)), _map_array(path))
    with array_errors(path, "arrays `ids` and `features`"):
        arrays = read_npz(path, ("ids", "features"))
    return _of_array(path, _id_list(arrays["ids"], path), arrays["features"])


@contextmanager
def array_errors(path: Path, expected: str) -> Iterator[None]:
    """What NumPy says of a file that is damaged, or of arrays that it lacks, as a DatasetError."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:  # a header is an expression in Python, which may be wrong in any way
        raise DatasetError(
            f"{path}: cannot be read ({reason_of(error)[:300]}); expected {expected} saved by "
            "NumPy without pickled objects"
        ) from error


def _map_array(path: Path) -> np.ndarray:
    """The array of an .npy file, of which nothing is read yet, nor more than the file holds."""
    with array_errors(path, "an array"):
        return np.load(path, mmap_mode="r", allow_pickle=False)


def _of_array(path: Path, ids: list[str], rows: np.ndarray) -> Vectors:
    if rows.ndim != 2 or not rows.shape[1] or rows.dtype.kind not in "fiu":
        raise DatasetError(
            f"{path}: features are {shown_type(rows.dtype)} of shape {shown(rows.shape)}, expected "
            "numbers [rows, width]"
        )
    if len(ids) != len(rows):
        raise DatasetError(f"{path}: {len(ids)} ids for {len(rows)} rows, expected one id per row")
    width = check_width(path, rows.shape[1])
    try:
        ids = id_strings(import_polars().Series("ids", ids), path).to_list()
    except UnicodeError as error:
        raise DatasetError(f"{path}: an id holds half a character ({error})") from error
    step = rows_at_once(width * rows.itemsize)
    return Vectors(ids, width, (rows[k : k + step] for k in range(0, len(rows), step)))


def check_width(path: Path, width: int) -> int:
    """The width; raises DatasetError for one that no features have."""
    if width > WIDEST:
        raise DatasetError(
            f"{path}: rows of {width:,} numbers, expected at most {WIDEST:,}; are rows and columns "
            "exchanged?"
        )
    return width


def rows_at_once(row_bytes: int) -> int:
    """How many rows of this size are read together."""
    return max(1, BYTES_AT_ONCE // max(1, row_bytes))


def _id_list(ids: np.ndarray, path: Path) -> list[str]:
    if ids.ndim != 1 or ids.dtype.kind not in "iuUS":
        raise DatasetError(
            f"{path}: ids are {shown_type(ids.dtype)} of shape {shown(ids.shape)}, expected a list "
            "of strings or whole numbers"
        )
    try:
        return [raw.decode() if isinstance(raw, bytes) else str(raw) for raw in ids.tolist()]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: ids are bytes that are not UTF-8 ({error})") from error


def _read_ids(path: Path) -> list[str]:
    """Raw ids from a JSON list, or from a text file of one a line."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # all line ends become \n
        if path.suffix.lower() != ".json":
            return text.removesuffix("\n").split("\n")
        ids = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path}: cannot be read as a file of ids in UTF-8 ({reason_of(error)[:300]})"
        ) from error
    if not isinstance(ids, list) or not all(type(raw) in (str, int) for raw in ids):
        raise DatasetError(f"{path}: expected a JSON list of strings or whole numbers")
    return [str(raw) for raw in ids]


def _of_parquet(path: Path, id_column: str) -> Vectors:
    """The id column, and one column of equally long lists or all numeric columns."""
    with parquet_errors(path):
        table = scan_parquet(path)
        schema = table.collect_schema()
        if id_column not in schema:
            raise missing_column(path, id_column, schema.names(), "; the ids are in none")
        ids = id_strings(table.select(id_column).collect()[id_column], path).to_list()
        rest = {name: kind for name, kind in schema.items() if name != id_column}
        nested = [name for name, kind in rest.items() if kind.is_nested()]
        columns = nested or [name for name, kind in rest.items() if kind.is_numeric()]
        if len(nested) > 1:
            raise DatasetError(
                f"{path}: columns of lists {shown(nested)}, expected one; leave the others out"
            )
        if not columns:
            raise DatasetError(
                f"{path}: no column of numbers or of lists of numbers beside {shown(id_column)}"
            )
        if nested and not _is_vector(rest[nested[0]]):
            raise DatasetError(
                f"{path}: column {shown(nested[0])} has type {shown_type(rest[nested[0]])}, "
                "expected lists of numbers"
            )
    if not nested:
        return Vectors(ids, check_width(path, len(columns)), _of_columns(path, table, columns))
    with parquet_errors(path):
        lists = table.select(nested[0]).collect()[nested[0]]
    return _of_lists(path, ids, lists)


def _is_vector(kind: Any) -> bool:
    pl = import_polars()
    return isinstance(kind, pl.List | pl.Array) and kind.inner.is_numeric()


def _of_columns(path: Path, table: Any, columns: list[str]) -> Iterator[np.ndarray]:
    """The rows of numeric columns, with NaN for what is empty."""
    with parquet_errors(path):
        found = table.select(columns).collect()
    step = rows_at_once(8 * len(columns))
    for start in range(0, len(found), step):
        part = found[start : start + step]
        yield np.column_stack([_floats(part[name]) for name in columns])


def _of_lists(path: Path, ids: list[str], lists: Any) -> Vectors:
    """The rows of a column of lists; a list that is not there, or empty, is a row of NaN."""
    if isinstance(lists.dtype, import_polars().Array):
        lists = lists.arr.to_list()
    lengths = lists.list.len().fill_null(0)
    widths = lengths.filter(lengths > 0).unique().sort()
    if len(widths) != 1:
        raise DatasetError(
            f"{path}: column {shown(lists.name)} has lists of lengths {shown(widths.to_list())}, "
            "expected one length"
        )
    width = check_width(path, widths[0])

    def parts() -> Iterator[np.ndarray]:
        step = rows_at_once(4 * width)
        for start in range(0, len(lists), step):
            part, there = (x[start : start + step] for x in (lists, lengths > 0))
            rows = np.full((len(part), width), np.nan, np.float32)
            found = _floats(part.filter(there).explode()).reshape(-1, width)
            with np.errstate(over="ignore"):  # what overflows becomes infinite, which is refused
                rows[there.to_numpy()] = found
            yield rows

    return Vectors(ids, width, parts())


def _floats(column: Any) -> np.ndarray:
    """A column of numbers, with NaN for what is empty; decimals as floats."""
    pl = import_polars()
    wide = column.dtype.is_decimal() or column.dtype.is_integer()
    return (column.cast(pl.Float64) if wide else column).fill_null(float("nan")).to_numpy()
