"""Reading tables: columns of .csv, .tsv and .parquet files, and of the items table by raw id."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.prepare.delimited import SEPARATORS, has_quotes, missing_column, read_delimited
from mmssl_jax.prepare.ids import id_strings, refuse_quoted, refuse_repeats, strings
from mmssl_jax.prepare.paths import input_file
from mmssl_jax.prepare.polars_module import import_polars
from mmssl_jax.prepare.settings import Settings, TableSettings, listed

if TYPE_CHECKING:
    import polars as pl


def read_table(
    file: str, columns: list[str], form: TableSettings, names: Sequence[str] = ()
) -> "pl.DataFrame":
    """Columns of a .csv, .tsv or .parquet file; of the first two kinds, all are texts.

    names: of all columns, for a table of text without a header.
    Raises DatasetError for a file or column that is not there or cannot be read.
    """
    path = input_file(file)
    suffix = path.suffix.lower()
    if suffix in SEPARATORS:
        return read_delimited(path, columns, names, form)
    if suffix != ".parquet":
        raise DatasetError(
            f"{path}: suffix {suffix!r}, expected .csv, .tsv or .parquet; name a table of text "
            ".csv and say what stands between its fields with --table.separator"
        )
    if names:
        raise DatasetError(f"{path}: a Parquet table names its columns itself; leave out {names}")
    with parquet_errors(path):
        table = scan_parquet(path)
        found = table.collect_schema().names()
        missing = [column for column in columns if column not in found]
        if missing:
            raise missing_column(path, missing[0], found)
        return table.select(columns).collect()


def scan_parquet(path: Path) -> "pl.LazyFrame":
    """The lazy table of this very file: brackets and stars in its path are nothing but letters."""
    return import_polars().scan_parquet(path.absolute(), glob=False, hive_partitioning=False)


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """What polars says of a file that is damaged becomes a DatasetError."""
    pl = import_polars()
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise DatasetError(f"{path}: cannot be read as a parquet table ({why[:300]})") from error


def ids_of(table: "pl.DataFrame", column: str, file: str, form: TableSettings) -> "pl.Series":
    """The ids in a column of a table that `read_table` read from this file."""
    ids = id_strings(table[column], file)
    suffix = Path(file).suffix.lower()
    if suffix in SEPARATORS and form.quotes == "auto" and not has_quotes(form, suffix):
        refuse_quoted(ids, file)
    return ids


def read_column(settings: Settings, id_column: str, columns: list[str]) -> dict[str, list]:
    """{raw id: the row's values of `columns` as texts or None} of the items table.

    Raises DatasetError for an id that stands twice, and for columns that hold no texts.
    """
    file, form = settings.items, settings.table
    wanted = list(dict.fromkeys([id_column, *columns]))
    table = read_table(file, wanted, form, listed(settings.items_columns))
    ids = ids_of(table, id_column, file, form).to_list()
    refuse_repeats(ids, file)
    values = zip(*(strings(table[c], file, "texts").to_list() for c in columns), strict=True)
    return dict(zip(ids, map(list, values), strict=True))
