"""Reading tables with polars: interactions, and columns of the items table, keyed by raw id."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.config import ConfigError
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.prepare.settings import Settings

if TYPE_CHECKING:
    import polars as pl

SEPARATORS = {".csv": ",", ".tsv": "\t"}
# Day, minute, second with a fraction, offset from UTC. Nothing looser: 12/01/2023 is a day in
# January to one reader and in December to another.
ISO_8601 = (
    r"^(\d{4}-\d{2}-\d{2})"
    r"(?:[T ](\d{2}:\d{2})(:\d{2}(?:\.\d+)?)?(Z|[+-]\d{2}(?::?\d{2})?)?)?$"
)


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

    Raises DatasetError for a row without an id, and for values that are none.
    """
    pl = import_polars()
    if column.dtype.is_float():
        _refuse_inexact(column, file)
        if (column.is_null() | (column == column.round())).all():
            column = column.cast(pl.Int64)
    ids = _strings(column, file, "ids: texts or whole numbers")
    empty = (ids.is_null() | (ids == "")).arg_true()
    if len(empty):
        raise DatasetError(
            f"{file}: column {column.name!r} is empty in {len(empty)} rows, the first is data row "
            f"{empty[0] + 1}; expected an id in every row; remove these rows"
        )
    return ids


def _strings(column: "pl.Series", file: str, expected: str) -> "pl.Series":
    """The column as texts; raises DatasetError for a type that has none, such as lists."""
    pl = import_polars()
    try:
        return column.cast(pl.String)
    except pl.exceptions.PolarsError as error:
        raise DatasetError(
            f"{file}: column {column.name!r} has type {column.dtype}, expected {expected}"
        ) from error


def _refuse_inexact(ids: "pl.Series", file: str) -> None:
    """Raises DatasetError for float ids that are NaN, infinite, or too large to be exact."""
    limit = 2 ** (24 if ids.dtype == import_polars().Float32 else 53)
    wrong = (~(ids.abs() < limit)).arg_true()
    if len(wrong):
        raise DatasetError(
            f"{file}: column {ids.name!r} is {ids[wrong[0]]} in data row {wrong[0] + 1}; expected "
            f"an id in every row, and in a {ids.dtype} column one below {limit:,}, from where on "
            "different ids may be the same number; write ids as texts or whole numbers"
        )


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
        column = table[settings.time_column]
        rows = rows.with_columns(time=_times(column, file, settings.time_format))
    n_unrated = 0
    if settings.min_rating is not None:
        rating = _numbers(table[settings.rating_column], file)
        n_unrated = rating.null_count()
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
        "rows_without_rating": n_unrated,
        "rows_below_min_rating": len(table) - n_unrated - n_rated,
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
    """A column of numbers as float64; null where it is empty or NaN, which has no order."""
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
    return numbers.fill_nan(None)


def _times(column: "pl.Series", file: str, time_format: str) -> "pl.Series":
    """A column of numbers or dates as int64 or float64 that grow with time, none of them null."""
    pl = import_polars()
    is_text = column.dtype == pl.String
    times = _read_times(column, time_format) if is_text else column
    if time_format and not is_text:
        raise DatasetError(
            f"{file}: column {column.name!r} has type {column.dtype}, but time_format "
            f"{time_format!r} is for texts; leave time_format out"
        )
    if times.dtype in (pl.Date, pl.Datetime):
        times = times.to_physical()
    if not times.dtype.is_numeric():
        raise DatasetError(
            f"{file}: column {column.name!r} has type {column.dtype}, expected numbers or dates"
        )
    times = times.cast(pl.Int64 if times.dtype.is_integer() else pl.Float64, strict=False)
    wrong = (times.is_null() | ~times.cast(pl.Float64).is_finite()).fill_null(True).arg_true()
    if len(wrong):
        found = "empty" if column[wrong[0]] is None else repr(column[wrong[0]])
        expected = (
            f"a time as time_format {time_format!r} says"
            if time_format
            else "a number or a date in ISO 8601, like 2024-03-01 or 2024-03-01T12:30:00, of one "
            "kind in the whole column; name another format with time_format, such as %d/%m/%Y"
        )
        raise DatasetError(
            f"{file}: column {column.name!r} is {found} in data row {wrong[0] + 1}; expected in "
            f"every row {expected}"
        )
    return times


def _read_times(texts: "pl.Series", time_format: str) -> "pl.Series":
    """Texts as moments of `time_format`; else as numbers, or as dates if none is a number. Null
    where they are not."""
    pl = import_polars()
    if time_format:
        try:
            return texts.str.to_datetime(time_format, strict=False, time_unit="us")
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"time_format {time_format!r} cannot be used ({reason})") from error
    times = texts.cast(pl.Int64, strict=False)
    if times.has_nulls():
        times = texts.cast(pl.Float64, strict=False)
    return _iso_dates(texts) if times.null_count() == len(times) else times


def _iso_dates(texts: "pl.Series") -> "pl.Series":
    """Moments of texts in ISO 8601, in UTC where they have an offset; null for all others, and for
    those that have an offset where the first has none, or the other way."""
    pl = import_polars()
    day, minute, second, offset = (texts.str.extract(ISO_8601, group) for group in range(1, 5))
    has_offset = offset.is_not_null()
    # One spelling for all: Z, +05 and +05:00 become +0000, +0500 and +0500.
    offset = offset.fill_null("Z").replace("Z", "+00").str.replace(":", "").str.pad_end(5, "0")
    whole = day + " " + minute.fill_null("00:00") + second.fill_null(":00") + offset
    moments = whole.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", strict=False, time_unit="us")
    return pl.select(pl.when(has_offset == has_offset.first()).then(moments)).to_series()


def read_column(file: str, id_column: str, columns: list[str]) -> dict[str, list[str | None]]:
    """{raw id: the row's values of `columns` as texts} of an items table.

    Raises DatasetError for an id that stands twice, and for columns that hold no texts.
    """
    table = read_table(file, list(dict.fromkeys([id_column, *columns])))
    ids = id_strings(table[id_column], file)
    refuse_repeats(ids.to_list(), file)
    values = zip(*(_strings(table[c], file, "texts").to_list() for c in columns), strict=True)
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
