"""Reading tables with polars: interactions, and columns of the items table, keyed by raw id."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.prepare.settings import Settings

if TYPE_CHECKING:
    import polars as pl

SEPARATORS = {".csv": ",", ".tsv": "\t"}


class Log(NamedTuple):
    """Interactions [E] by number; `users[e]` stands for the raw id `user_ids[users[e]]`.

    Each pair stands once. times are int64 or float64 [E], of the pair's first row, or None. counts
    say how many rows there were, and how many were left out and why.
    """

    user_ids: NDArray[np.str_]
    item_ids: NDArray[np.str_]
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: np.ndarray | None
    counts: dict[str, int]


def import_polars() -> Any:
    """The polars module; raises DatasetError that names the extra to install."""
    try:
        import polars
    except ImportError as error:
        raise DatasetError(
            "reading tables needs polars: install it with pip install 'mmssl_jax[tables]'"
        ) from error
    return polars


def read_table(file: str, columns: list[str] | None = None) -> "pl.DataFrame":
    """Columns of a .csv, .tsv or .parquet file, all of them for None; texts stay texts.

    Raises DatasetError for a file or column that is not there or cannot be read.
    """
    pl, path = import_polars(), Path(file)
    suffix = path.suffix.lower()
    if not path.is_file():
        raise DatasetError(f"{file}: no such file; expected a table with a header")
    try:
        if suffix == ".parquet":
            table = pl.scan_parquet(path)
        elif suffix in SEPARATORS:
            table = pl.scan_csv(path, separator=SEPARATORS[suffix], infer_schema=False)
        else:
            raise DatasetError(f"{file}: suffix {suffix!r}, expected .csv, .tsv or .parquet")
        names = table.collect_schema().names()
        missing = [column for column in columns or [] if column not in names]
        if missing:
            raise DatasetError(
                f"{file}: no column {missing[0]!r}; its columns are {', '.join(names)}"
            )
        return (table if columns is None else table.select(columns)).collect()
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DatasetError(f"{file}: cannot be read as a {suffix[1:]} table ({reason})") from error


def id_strings(column: "pl.Series", file: str) -> "pl.Series":
    """Raw ids as strings; whole floats, which a table with gaps has, without their `.0`.

    Raises DatasetError for a row without an id.
    """
    pl = import_polars()
    if column.dtype.is_float() and (column.is_null() | (column == column.round())).all():
        column = column.cast(pl.Int64)
    ids = column.cast(pl.String)
    empty = (ids.is_null() | (ids == "")).arg_true()
    if len(empty):
        raise DatasetError(
            f"{file}: column {column.name!r} is empty in {len(empty)} rows, the first is data row "
            f"{empty[0] + 1}; expected an id in every row; remove these rows"
        )
    return ids


def read_log(settings: Settings) -> Log:
    """The interactions with a rating of at least `min_rating`, each pair once.

    Raises DatasetError for a table that cannot be used.
    """
    pl, file = import_polars(), settings.interactions
    optional = [c for c in (settings.rating_column, settings.time_column) if c]
    names = dict.fromkeys([settings.user_column, settings.item_column, *optional])
    table = read_table(file, list(names))
    rows = pl.DataFrame(
        {
            "user": id_strings(table[settings.user_column], file),
            "item": id_strings(table[settings.item_column], file),
        }
    )
    if settings.time_column:
        rows = rows.with_columns(time=_times(table[settings.time_column], file))
    if settings.min_rating is not None:
        rating = _numbers(table[settings.rating_column], file)
        rows = rows.filter((rating >= settings.min_rating).fill_null(False))
    n_rated = len(rows)
    if settings.time_column:
        rows = rows.sort("time")
    rows = rows.unique(["user", "item"], keep="first", maintain_order=True).sort("user", "item")
    if not len(rows):
        raise DatasetError(
            f"{file}: {len(table)} rows, of which none is left"
            + (f" with {settings.rating_column} >= {settings.min_rating}" if len(table) else "")
        )
    user_ids, users = _numbered(rows["user"])
    item_ids, items = _numbered(rows["item"])
    counts = {
        "rows": len(table),
        "rows_below_min_rating": len(table) - n_rated,
        "duplicates_merged": n_rated - len(rows),
        "interactions": len(rows),
        "users": len(user_ids),
        "items": len(item_ids),
    }
    times = rows["time"].to_numpy() if settings.time_column else None
    return Log(user_ids, item_ids, users, items, times, counts)


def _numbered(ids: "pl.Series") -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """The different ids, sorted, and the number of each row's."""
    pl = import_polars()
    different = ids.unique().sort()
    numbers = pl.Series(range(len(different)), dtype=pl.Int64)
    codes = ids.replace_strict(different, numbers, return_dtype=pl.Int64)
    return np.array(different.to_list(), dtype=np.str_), codes.to_numpy()


def _numbers(column: "pl.Series", file: str) -> "pl.Series":
    """A column of numbers as float64; null where it is empty."""
    pl = import_polars()
    texts = column.replace("", None) if column.dtype == pl.String else column
    try:
        numbers = texts.cast(pl.Float64, strict=False)
    except pl.exceptions.PolarsError as error:
        raise DatasetError(f"{file}: column {column.name!r} has no numbers ({error})") from error
    wrong = (numbers.is_null() & texts.is_not_null()).arg_true()
    if len(wrong):
        raise DatasetError(
            f"{file}: column {column.name!r} is {column[wrong[0]]!r} in data row {wrong[0] + 1}, "
            "expected a number"
        )
    return numbers


def _times(column: "pl.Series", file: str) -> "pl.Series":
    """A column of numbers or dates as numbers that grow with time, none of them null."""
    pl = import_polars()
    if column.dtype == pl.String:
        times = column.cast(pl.Int64, strict=False)
        if times.has_nulls():
            times = column.cast(pl.Float64, strict=False)
        if times.null_count() == len(times):
            times = _dates(column)
    else:
        times = column
    if times.dtype.is_temporal():
        times = times.cast(pl.Datetime("us")).cast(pl.Int64)
    if not times.dtype.is_numeric():
        raise DatasetError(
            f"{file}: column {column.name!r} has type {column.dtype}, expected numbers or dates"
        )
    wrong = times.is_null() | ~times.cast(pl.Float64).is_finite()
    if wrong.any():
        row = wrong.fill_null(True).arg_true()[0]
        found = "empty" if column[row] is None else repr(column[row])
        raise DatasetError(
            f"{file}: column {column.name!r} is {found} in data row {row + 1}; expected a number "
            "or a date, of one kind in the whole column, in every row"
        )
    return times


def _dates(column: "pl.Series") -> "pl.Series":
    pl = import_polars()
    try:
        return column.str.to_datetime(strict=False, time_unit="us")
    except pl.exceptions.PolarsError:  # no format fits the first row
        return pl.Series(column.name, [None] * len(column), dtype=pl.Float64)


def read_column(file: str, id_column: str, columns: list[str]) -> dict[str, list[str | None]]:
    """{raw id: the row's values of `columns` as texts} of an items table.

    Raises DatasetError for an id that stands twice.
    """
    pl = import_polars()
    table = read_table(file, list(dict.fromkeys([id_column, *columns])))
    ids = id_strings(table[id_column], file)
    refuse_repeats(ids.to_list(), file)
    values = zip(*(table[column].cast(pl.String).to_list() for column in columns), strict=True)
    return dict(zip(ids.to_list(), map(list, values), strict=True))


def refuse_repeats(ids: list[str], file: str) -> None:
    """Raises DatasetError for an id that stands twice."""
    seen: dict[str, int] = {}
    for row, raw in enumerate(ids):
        if seen.setdefault(raw, row) != row:
            raise DatasetError(
                f"{file}: item {raw!r} is in data rows {seen[raw] + 1} and {row + 1}, expected one "
                "row per item; keep one of them"
            )
