"""Tables of text, .csv and .tsv: every row has the header's fields, or the table is refused.

The standard library's reader, in its strict mode, splits the lines: polars would fill short rows,
drop what long ones have beyond the columns it was asked for, and read on behind a quotation mark.
"""

import codecs
import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmssl_jax.config import ConfigError
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.messages import clipped, shown
from mmssl_jax.prepare.polars_module import import_polars
from mmssl_jax.prepare.settings import TableSettings

if TYPE_CHECKING:
    import polars as pl

SEPARATORS = {".csv": ",", ".tsv": "\t"}
LONGEST_FIELD = 2**24  # characters: more is a quotation mark that nobody closed
ROWS_AT_ONCE = 50_000
# A file that begins so is none of text, whatever its name says.
STARTS = {
    b"\x1f\x8b": "is compressed by gzip: unpack it",
    b"PK\x03\x04": "is a zip archive or a spreadsheet: unpack it, or export it as CSV",
    b"\xd0\xcf\x11\xe0": "is a spreadsheet: export it as CSV",
    b"PAR1": "is a Parquet table: name it .parquet",
}
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_delimited(
    path: Path, columns: Sequence[str], names: Sequence[str], form: TableSettings
) -> "pl.DataFrame":
    """Columns of a .csv or .tsv file as texts; blank lines are no rows.

    names: of all columns, for a table whose first line is no header; else empty.
    Raises DatasetError that names the line for what is not such a table.
    """
    _refuse_other_formats(path, form.encoding)
    try:
        with path.open(encoding=_encoding(form.encoding), newline="") as file:
            return _read(path, file, columns, names, form)
    except UnicodeError as error:
        raise DatasetError(_undecodable(path, form.encoding, error)) from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error


def check_form(form: TableSettings) -> None:
    """Raises ConfigError for a separator or an encoding that there is none of."""
    separator = separator_of(form, ".csv")
    if len(separator) != 1 or separator in '"\r\n\0' or not separator.isascii():
        raise ConfigError(
            f"table.separator is {shown(form.separator)}, expected one character between two "
            "fields, such as ';' or '\\t'; convert tables whose fields are parted otherwise"
        )
    try:
        is_text = codecs.lookup(form.encoding)._is_text_encoding
    except (LookupError, ValueError):
        is_text = False
    if not is_text:
        raise ConfigError(
            f"table.encoding is {shown(form.encoding)}, expected the name of an encoding, such as "
            "utf-8, latin-1, cp1252 or utf-16"
        )


def separator_of(form: TableSettings, suffix: str) -> str:
    """What stands between two fields of a file with this suffix."""
    return {"\\t": "\t", "": SEPARATORS.get(suffix, ",")}.get(form.separator, form.separator)


def has_quotes(form: TableSettings, suffix: str) -> bool:
    """Whether fields of a file with this suffix may stand between quotation marks."""
    return form.quotes == "double" or (form.quotes == "auto" and suffix != ".tsv")


def _encoding(name: str) -> str:
    # With the mark that some programs write at a file's beginning, or without.
    return "utf-8-sig" if codecs.lookup(name).name == "utf-8" else name


def _read(
    path: Path, file: Any, columns: Sequence[str], names: Sequence[str], form: TableSettings
) -> "pl.DataFrame":
    pl = import_polars()
    suffix = path.suffix.lower()
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(
        file,
        delimiter=separator_of(form, suffix),
        quoting=csv.QUOTE_MINIMAL if has_quotes(form, suffix) else csv.QUOTE_NONE,
        strict=True,
    )
    rows = _rows(path, reader, form)
    header = list(names) or next(rows, [])
    if not header:
        raise DatasetError(f"{path}: an empty file, expected a table with a header")
    places = [_place(path, header, column, bool(names)) for column in columns]
    parts = [pl.DataFrame(schema=dict.fromkeys(columns, pl.String))]
    done = 0
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        if any(map(len(header).__ne__, map(len, batch))):
            _refuse_ragged(path, batch, len(header), done)
        if not done and names and all(batch[0][k] == header[k] for k in places):
            raise DatasetError(
                f"{path}: its first line is a header, {shown(header)}; leave out the names of its "
                "columns"
            )
        picked = {c: list(map(itemgetter(k), batch)) for c, k in zip(columns, places, strict=True)}
        parts.append(pl.DataFrame(picked, schema=dict.fromkeys(columns, pl.String)))
        done += len(batch)
    return pl.concat(parts)


def _rows(path: Path, reader: Any, form: TableSettings) -> Iterator[list[str]]:
    """The rows that are not blank lines; says how many lines are parts of fields."""
    seen = 0
    try:
        for row in reader:
            seen += 1
            if row:
                yield row
        if reader.line_num > seen:
            print(
                clipped(
                    f"{path}: {reader.line_num - seen:,} line breaks lie within fields between "
                    "quotation marks"
                )
            )
    except csv.Error as error:
        hint = (
            "two quotation marks stand for one within such a field; where they are characters as "
            "others are, say --table.quotes none"
        )
        raise DatasetError(
            f"{path}: line {reader.line_num} or one before it has a field that begins with a "
            f"quotation mark and is not closed as it should be ({error}); {hint}"
            if has_quotes(form, path.suffix.lower())
            else f"{path}: line {reader.line_num}: {error}"
        ) from error


def _place(path: Path, header: list[str], column: str, is_named: bool) -> int:
    places = [place for place, name in enumerate(header) if name == column]
    if len(places) == 1:
        return places[0]
    if places:
        raise DatasetError(
            f"{path}: columns {places[0] + 1} and {places[1] + 1} are both named {shown(column)}; "
            "rename one of them"
        )
    raise missing_column(path, column, header, "" if is_named else _hint(header))


def missing_column(path: Path, column: str, names: Sequence[str], hint: str = "") -> DatasetError:
    """The error that names the columns that there are."""
    found = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    short = found if len(found) < 400 else shown(found)
    return DatasetError(f"{path}: no column {shown(column)}; its columns are {short}{hint}")


def _hint(header: list[str]) -> str:
    """What may be the reason that a column is not in the first line."""
    if any(name[:1] == name[-1:] == '"' for name in header):
        return "; quotation marks around fields are read with --table.quotes double"
    other = next((mark for mark in ";\t|,:" if len(header) == 1 and mark in header[0]), "")
    if other:
        return f"; fields that are parted by {other!r} are read with --table.separator {other!r}"
    return "; a table without a header takes its columns' names from --columns or --items_columns"


def _refuse_ragged(path: Path, batch: list[list[str]], width: int, done: int) -> None:
    row = next(k for k, fields in enumerate(batch) if len(fields) != width)
    raise DatasetError(
        f"{path}: data row {done + row + 1} has {len(batch[row])} fields, expected {width} as the "
        f"first line has; it begins with {shown(batch[row][0])}; a field that holds the separator "
        "or a line break stands between quotation marks (--table.quotes double)"
    )


def _refuse_other_formats(path: Path, encoding: str) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    for mark, found in STARTS.items():
        if start.startswith(mark):
            raise DatasetError(f"{path}: {found}")
    if start[:2] in UTF_16 and not codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
        raise DatasetError(f"{path}: begins as UTF-16 does: say --table.encoding utf-16")


def _undecodable(path: Path, encoding: str, error: UnicodeError) -> str:
    """Where the first bytes are that are not of the encoding, and which encoding may be."""
    with suppress(UnicodeError), path.open("rb") as file:  # some codecs name no place
        for number, line in enumerate(file, 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as wrong:
                found = f"byte 0x{line[wrong.start]:02x} in line {number}"
                return (
                    f"{path}: {found} is not {encoding}; name the encoding that it is written in, "
                    "such as --table.encoding latin-1 or cp1252"
                )
    return f"{path}: is not {encoding} ({error}); name its encoding with --table.encoding"
