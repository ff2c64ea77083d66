"""Raw ids as strings, exactly as they are written; what is no id is refused with its row."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.messages import shown
from mmssl_jax.prepare.polars_module import import_polars

if TYPE_CHECKING:
    import polars as pl

LONGEST = 1000  # characters: arrays of ids give each one the room of the longest
MISSING = ("nan", "NaN", "NAN", "NaT", "NA", "<NA>", "N/A", "#N/A", "null", "NULL", "None", "NONE")
# What no id may be: a pattern, what it says of the id, and what to do.
REFUSED = (
    ("\0", "holds a NUL character", "remove it: ids of a fixed width are often filled up with it"),
    (
        rf"^(?:{'|'.join(MISSING)})$",
        "is how programs write a value that is missing",
        "remove these rows, or give the id another name",
    ),
    (
        r"^-?\d(?:[.,]\d+)?E\+\d+$",
        "is a number that a spreadsheet has rounded, so that different ids may have become one",
        "export the column as text",
    ),
    (r"^\s|\s$", "has blanks around it", "remove them, here and wherever else the id stands"),
)


def id_strings(column: "pl.Series", file: object) -> "pl.Series":
    """Raw ids as strings; whole floats, which a table with gaps has, without their `.0`.

    Raises DatasetError for a row without an id, and for values that are none.
    """
    pl = import_polars()
    if column.dtype.is_float():
        _refuse_inexact(column, file)
        if (column.is_null() | (column == column.round())).all():
            column = column.cast(pl.Int64)
    ids = strings(column, file, "ids: texts or whole numbers")
    empty = (ids.is_null() | (ids == "")).arg_true()
    if len(empty):
        raise DatasetError(
            f"{file}: column {shown(column.name)} is empty in {len(empty)} rows, the first is data "
            f"row {empty[0] + 1}; expected an id in every row; remove these rows"
        )
    long = (ids.str.len_chars() > LONGEST).arg_true()
    if len(long):
        raise _refusal(ids, long, file, f"is longer than {LONGEST:,} characters", "shorten it")
    for pattern, found, advice in REFUSED:
        wrong = ids.str.contains(pattern).arg_true()
        if len(wrong):
            raise _refusal(ids, wrong, file, found, advice)
    return ids


def _refusal(
    ids: "pl.Series", wrong: "pl.Series", file: object, found: str, advice: str
) -> DatasetError:
    return DatasetError(
        f"{file}: column {shown(ids.name)} is {shown(ids[wrong[0]])} in data row {wrong[0] + 1}, "
        f"which {found} ({len(wrong)} such rows); {advice}"
    )


def refuse_quoted(ids: "pl.Series", file: object) -> None:
    """Raises DatasetError for an id between quotation marks in a table that is read without any."""
    wrong = ids.str.contains('^".*"$').arg_true()
    if len(wrong):
        what = "stands between quotation marks, which are read as a part of it"
        advice = "say --table.quotes double, or none if they are"
        raise _refusal(ids, wrong, file, what, advice)


def strings(column: "pl.Series", file: object, expected: str) -> "pl.Series":
    """The column as texts; raises DatasetError for a type that has none, such as lists."""
    pl = import_polars()
    try:
        return column.cast(pl.String)
    except pl.exceptions.PolarsError as error:
        raise DatasetError(
            f"{file}: column {shown(column.name)} has type {shown_type(column.dtype)}, expected "
            f"{expected}"
        ) from error


def shown_type(dtype: object) -> str:
    """A column's type in a few words, however deep it is."""
    text = str(dtype)
    return text if len(text) < 120 else text[:120] + " .."


def _refuse_inexact(ids: "pl.Series", file: object) -> None:
    """Raises DatasetError for float ids that are NaN, infinite, or too large to be exact."""
    limit = 2 ** (24 if ids.dtype == import_polars().Float32 else 53)
    wrong = (~(ids.abs() < limit)).arg_true()
    if len(wrong):
        raise DatasetError(
            f"{file}: column {shown(ids.name)} is {ids[wrong[0]]} in data row {wrong[0] + 1}; "
            f"expected an id in every row, and in a {ids.dtype} column one below {limit:,}, from "
            "where on different ids may be the same number; write ids as texts or whole numbers"
        )


def refuse_repeats(ids: Iterable[str], file: object) -> None:
    """Raises DatasetError for an id that stands twice."""
    seen: dict[str, int] = {}
    for row, raw in enumerate(ids):
        if seen.setdefault(raw, row) != row:
            raise DatasetError(
                f"{file}: item {shown(raw)} is in data rows {seen[raw] + 1} and {row + 1}, "
                "expected one row per item; keep one of them"
            )
