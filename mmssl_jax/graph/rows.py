"""Training interactions by user (compressed rows), and the rows of one batch as a flat list."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from mmssl_jax.nodes import Nodes
from mmssl_jax.parallel import all_gather, axis_index, axis_size


class InteractionRows(NamedTuple):
    """Training items of user u: `items[start[u] : start[u + 1]]`, ascending.

    `samplers` are the users that a batch may hold: those with a positive and a negative item.
    `trained` are the items with a training interaction, ascending, and `place[e]` is where
    `items[e]` stands among them. `user_rows` tells where users' rows lie that are spread over
    devices; None where a user's row is its number.
    """

    start: Int[Array, " U_plus_1"]
    items: Int[Array, " E"]
    users: Int[Array, " E"]
    samplers: Int[Array, " N"]
    trained: Int[Array, " T"]
    place: Int[Array, " E"]
    user_rows: Int[Array, " U"] | None = None

    def of_users(self, users: Int[Array, " B"]) -> Int[Array, " B"]:
        """The rows of users in arrays with a row per user."""
        return users if self.user_rows is None else self.user_rows[users]


class RowPairs(NamedTuple):
    """Pairs (row of a block, item); those with a false mask are padding.

    N stands for leading axes, if there are any.
    """

    rows: Int[Any, "*N S"]
    items: Int[Any, "*N S"]
    mask: Bool[Any, "*N S"]


class BatchEdges(NamedTuple):
    """The interactions of the B users of a batch, flat and padded to a fixed length S.

    `slot` is an edge's position within its user's interactions. Padding edges name row B - 1.
    `degree` is the number of interactions of each row.
    """

    row: Int[Array, " S"]
    item: Int[Array, " S"]
    slot: Int[Array, " S"]
    mask: Bool[Array, " S"]
    degree: Int[Array, " B"]

    @property
    def n_rows(self) -> int:
        """B."""
        return self.degree.shape[0]


def interaction_rows(edges: np.ndarray, n_users: int, n_items: int) -> InteractionRows:
    """Rows of the training interactions, `edges` int `[E, 2]` (user, item), unique.

    Raises ValueError when no user has both a positive and a negative item.
    """
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    degree = np.bincount(edges[:, 0], minlength=n_users)
    samplers = np.flatnonzero((degree > 0) & (degree < n_items))
    if not len(samplers):
        raise ValueError("no user has a training item and an item that is not one: nothing to rank")
    trained, place = np.unique(edges[order, 1], return_inverse=True)
    return InteractionRows(
        start=jnp.asarray(np.concatenate([[0], np.cumsum(degree)]), jnp.int32),
        items=jnp.asarray(edges[order, 1], jnp.int32),
        users=jnp.asarray(edges[order, 0], jnp.int32),
        samplers=jnp.asarray(samplers, jnp.int32),
        trained=jnp.asarray(trained, jnp.int32),
        place=jnp.asarray(place, jnp.int32),
    )


def most_batch_edges(
    degree: np.ndarray, batch_size: int, n_devices: int, by_interaction: bool
) -> int:
    """Upper bound of the training interactions that the users of one device's share have together.

    Args:
      degree: training interactions per user `[U]`.
      batch_size: of all devices.
      by_interaction: whether a user may stand in the batch once per interaction, instead of once.
    """
    highest_first, share = np.sort(degree)[::-1], batch_size // n_devices
    drawn_from = degree.sum() if by_interaction else np.count_nonzero(degree)
    if batch_size > drawn_from:  # with replacement
        return int(highest_first[0]) * share
    if by_interaction:
        highest_first = np.repeat(highest_first, np.minimum(highest_first, share))
    return int(highest_first[:share].sum())


def batch_edges(rows: InteractionRows, users: Int[Array, " B"], length: int) -> BatchEdges:
    """The interactions of `users`, sorted by row; `length` (static) must be enough for them."""
    degree = rows.start[users + 1] - rows.start[users]
    end = jnp.cumsum(degree)
    position = jnp.arange(length, dtype=jnp.int32)
    row = jnp.minimum(jnp.searchsorted(end, position, side="right"), users.shape[0] - 1)
    row = row.astype(jnp.int32)
    slot = position - (end - degree)[row]
    mask = position < end[-1]
    item = rows.items[jnp.where(mask, rows.start[users[row]] + slot, 0)]
    return BatchEdges(row, item, jnp.where(mask, slot, 0), mask, degree)


def edges_of_own_items(
    edges: BatchEdges, n_items: int, nodes: Nodes
) -> tuple[BatchEdges, Int[Array, " T"]]:
    """Of the edges of all devices' rows those with items of this device, in front, and the place
    of each among the devices' edges one after another.

    Rows count in the batch of all devices, items within this device, which has `n_items`.
    """
    n_devices, me = axis_size(nodes.axis), axis_index(nodes.axis)
    row = edges.row + me * edges.n_rows
    rows, items, slots, masks = all_gather((row, edges.item, edges.slot, edges.mask), nodes.axis)
    item = items - me * n_items
    is_mine = masks & (item >= 0) & (item < n_items)
    length = len(is_mine)
    place = jnp.where(is_mine, jnp.cumsum(is_mine) - 1, length)
    order = jnp.zeros(length, jnp.int32).at[place].set(jnp.arange(length), mode="drop")
    mask = jnp.arange(length) < jnp.sum(is_mine)
    n_rows = edges.n_rows * n_devices
    item, row = jnp.where(mask, item[order], 0), jnp.where(mask, rows[order], n_rows - 1)
    degree = jnp.zeros(n_rows, jnp.int32)  # of no meaning here
    return BatchEdges(row, item, slots[order], mask, degree), order
