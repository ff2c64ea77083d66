"""Moments of a table as numbers that grow with time."""

from typing import TYPE_CHECKING

from mmssl_jax.config import ConfigError
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.messages import shown
from mmssl_jax.prepare.ids import shown_type
from mmssl_jax.prepare.polars_module import import_polars

if TYPE_CHECKING:
    import polars as pl

# Day, minute, second with a fraction, offset from UTC. Nothing looser: 12/01/2023 is a day in
# January to one reader and in December to another.
ISO_8601 = (
    r"^(\d{4}-\d{2}-\d{2})"
    r"(?:[T ](\d{2}:\d{2})(:\d{2}(?:\.\d+)?)?(Z|[+-]\d{2}(?::?\d{2})?)?)?$"
)


def times_of(column: "pl.Series", file: str, time_format: str) -> "pl.Series":
    """A column of numbers or dates as int64 or float64 that grow with time, none of them null."""
    pl = import_polars()
    is_text = column.dtype == pl.String
    times = _read_times(column, time_format) if is_text else column
    if time_format and not is_text:
        raise DatasetError(
            f"{file}: column {shown(column.name)} has type {shown_type(column.dtype)}, but "
            f"time_format {shown(time_format)} is for texts; leave time_format out"
        )
    if times.dtype in (pl.Date, pl.Datetime):
        times = times.to_physical()
    if not times.dtype.is_numeric():
        raise DatasetError(
            f"{file}: column {shown(column.name)} has type {shown_type(column.dtype)}, expected "
            "numbers or dates"
        )
    times = times.cast(pl.Int64 if times.dtype.is_integer() else pl.Float64, strict=False)
    wrong = (times.is_null() | ~times.cast(pl.Float64).is_finite()).fill_null(True).arg_true()
    if len(wrong):
        found = "empty" if column[wrong[0]] in (None, "") else shown(column[wrong[0]])
        expected = (
            f"a time as time_format {shown(time_format)} says"
            if time_format
            else "a number or a date in ISO 8601, like 2024-03-01 or 2024-03-01T12:30:00, of one "
            "kind in the whole column; name another format with time_format, such as %d/%m/%Y"
        )
        raise DatasetError(
            f"{file}: column {shown(column.name)} is {found} in data row {wrong[0] + 1}; expected "
            f"in every row {expected}"
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
            raise ConfigError(
                f"time_format {shown(time_format)} cannot be used ({reason})"
            ) from error
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
