"""A'A of a sparse matrix A, users x items, by blocks of rows: which items occur together.

Legend: U users, I items, E entries of A, N entries of a block.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Gram(NamedTuple):
    """A by users and by items, from which rows of A'A are made; neither is ever dense.

    `items[start[u] : start[u + 1]]` are the items of user u, with `values`; `users` are alongside.
    `places[item_start[i] : item_start[i + 1]]` is where item i stands among them.
    """

    start: Int[np.ndarray, " U_plus_1"]
    users: Int[np.ndarray, " E"]
    items: Int[np.ndarray, " E"]
    values: Float[np.ndarray, " E"]
    item_start: Int[np.ndarray, " I_plus_1"]
    places: Int[np.ndarray, " E"]

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.item_start) - 1


class Entries(NamedTuple):
    """Entries of a block of B rows, by row, then by column, each place once; rows count from the
    block's first."""

    rows: Int[np.ndarray, " N"]
    columns: Int[np.ndarray, " N"]
    values: Float[np.ndarray, " N"]


def gram_of(
    edges: Int[np.ndarray, "E 2"], values: Float[np.ndarray, " E"], n_users: int, n_items: int
) -> Gram:
    """A'A of the matrix A with these values at these (user, item) places."""
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    users, items = edges[order, 0], edges[order, 1]
    places = np.argsort(items, kind="stable")
    return Gram(
        start=np.searchsorted(users, np.arange(n_users + 1)),
        users=users,
        items=items,
        values=values[order],
        item_start=np.searchsorted(items[places], np.arange(n_items + 1)),
        places=places,
    )


def gram_rows(gram: Gram, first: int, last: int) -> Entries:
    """The entries of rows `first` to `last - 1`: (A'A)_ji = sum over users u of A_uj A_ui.

    The memory is that of all pairs of an item of the block and another of the same user.
    """
    own = gram.places[gram.item_start[first] : gram.item_start[last]]
    begin, end = gram.start[gram.users[own]], gram.start[gram.users[own] + 1]
    lengths = end - begin
    # For each entry of the block's items, the places of all entries of its user.
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    other = np.repeat(begin, lengths) + within
    rows = np.repeat(gram.items[own] - first, lengths).astype(np.int64)
    products = np.repeat(gram.values[own], lengths) * gram.values[other]
    keys, place = np.unique(rows * gram.n_items + gram.items[other], return_inverse=True)
    return Entries(
        *np.divmod(keys, gram.n_items), np.bincount(place, products, minlength=len(keys))
    )


def largest_entries(
    entries: Entries, n_rows: int, k: int
) -> tuple[Int[np.ndarray, "B K"], Float[np.ndarray, "B K"]]:
    """Columns and values of each row's k largest entries, largest first, equal ones by column.

    A row with fewer of them ends in values of 0.
    """
    order = np.lexsort((entries.columns, -entries.values, entries.rows))
    counts = np.bincount(entries.rows, minlength=n_rows)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept, rank = order[rank < k], rank[rank < k]
    columns, values = np.zeros((n_rows, k), np.int32), np.zeros((n_rows, k), np.float32)
    columns[entries.rows[kept], rank] = entries.columns[kept]
    values[entries.rows[kept], rank] = entries.values[kept]
    return columns, values
