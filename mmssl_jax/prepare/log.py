"""The interactions of a table: each pair of user and item once, with numbers for raw ids."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.messages import shown
from mmssl_jax.prepare.ids import shown_type
from mmssl_jax.prepare.polars_module import import_polars
from mmssl_jax.prepare.settings import Settings, listed
from mmssl_jax.prepare.tables import ids_of, read_table
from mmssl_jax.prepare.times import times_of

if TYPE_CHECKING:
    import polars as pl


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


def read_log(settings: Settings) -> Log:
    """The interactions with a rating of at least `min_rating`, each pair once.

    Raises DatasetError for a table that cannot be used.
    """
    pl, file = import_polars(), settings.interactions
    optional = [c for c in (settings.rating_column, settings.time_column) if c]
    names = dict.fromkeys([settings.user_column, settings.item_column, *optional])
    form = settings.table
    table = read_table(file, list(names), form, listed(settings.columns))
    rows = pl.DataFrame(
        {
            "user": ids_of(table, settings.user_column, file, form),
            "item": ids_of(table, settings.item_column, file, form),
        }
    )
    if settings.time_column:
        column = table[settings.time_column]
        rows = rows.with_columns(time=times_of(column, file, settings.time_format))
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
        raise DatasetError(
            f"{file}: column {shown(column.name)} has type {shown_type(column.dtype)}, expected "
            "numbers"
        ) from error
    wrong = ((numbers.is_null() & texts.is_not_null()) | numbers.is_infinite()).arg_true()
    if len(wrong):
        raise DatasetError(
            f"{file}: column {shown(column.name)} is {shown(column[wrong[0]])} in data row "
            f"{wrong[0] + 1}, expected a number: finite, with a point before its decimals, and "
            "without marks between thousands"
        )
    return numbers.fill_nan(None)
