"""Rows of users and items that are spread over devices, as the code of one device sees them.

A device holds the rows of its own users and items. What a method does with a row alone it does with
these; what goes from one side to the other, or to a batch, passes through the functions here and
`graph.propagate.users_from_items` and `items_from_users`. Without spread rows (`nodes` None) each
function is what it is on one device.

Items are cut into equal ranges, the last one padded. Users are dealt so that devices have about
equal numbers of training interactions, so a user's row is not its number: `user_rows` tells it.
"""

from typing import NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmssl_jax.parallel import all_gather, axis_index, psum, psum_scatter

Tree = TypeVar("Tree")  # a pytree of arrays


class Nodes(NamedTuple):
    """Static sizes of spread rows.

    axis: the devices. n_users, n_items: rows of one device, padding included. n_edges: the most
    training interactions of a device's users. all_items: items that there are.
    """

    axis: str
    n_users: int
    n_items: int
    n_edges: int
    all_items: int


def axis_of(nodes: Nodes | None) -> str | None:
    """The devices over which rows are spread, or None."""
    return None if nodes is None else nodes.axis


def deal_users(degree: np.ndarray, n_devices: int) -> Int[np.ndarray, " U"]:
    """The row of each user where users are spread over devices, ceil(U / n) rows each.

    In rounds, users with most interactions first: the heaviest of a round goes to the device that
    has the fewest interactions so far, and every device gets one.
    """
    if n_devices == 1:
        return np.arange(len(degree), dtype=np.int32)
    n_rows = -(-len(degree) // n_devices)
    heaviest_first = np.argsort(-degree, kind="stable")
    load, row = np.zeros(n_devices, np.int64), np.zeros(len(degree), np.int32)
    for number in range(n_rows):
        users = heaviest_first[number * n_devices : (number + 1) * n_devices]
        emptiest_first = np.argsort(load, kind="stable")[: len(users)]
        load[emptiest_first] += degree[users]
        row[users] = emptiest_first * n_rows + number
    return row


def own_rows(
    x: Float[Array, "N D"], rows: Int[Array, " B"], nodes: Nodes | None
) -> Float[Array, "B D"]:
    """Rows of x, each device those that it asks for, wherever they lie. All ask for equally many,
    together."""
    if nodes is None:
        return x[rows]
    return psum_scatter(_held(x, all_gather(rows, nodes.axis), nodes), nodes.axis)


def shared_rows(
    x: Float[Array, "N D"], rows: Int[Array, " B"], nodes: Nodes | None
) -> Float[Array, "B D"]:
    """Rows of x that all devices ask for alike."""
    return x[rows] if nodes is None else psum(_held(x, rows, nodes), nodes.axis)


def _held(x: Float[Array, "N D"], rows: Int[Array, " B"], nodes: Nodes) -> Float[Array, "B D"]:
    """The rows that this device holds, and 0 for the others."""
    row = rows - axis_index(nodes.axis) * len(x)
    is_here = (row >= 0) & (row < len(x))
    return jnp.where(is_here[:, None], x[jnp.where(is_here, row, 0)], 0.0)


def node_sum(tree: Tree, nodes: Nodes | None) -> Tree:
    """Sums over this device's rows, over all rows."""
    return psum(tree, axis_of(nodes))


def rows_of_all_items(x: Float[Array, "I D"], nodes: Nodes | None) -> Float[Array, "I D"]:
    """The rows of all items, without padding."""
    return x if nodes is None else all_gather(x, nodes.axis)[: nodes.all_items]


def item_numbers(n_rows: int, nodes: Nodes | None) -> Int[Array, " R"]:
    """The numbers of this device's items; those of padding are too high."""
    return axis_index(axis_of(nodes)) * n_rows + jnp.arange(n_rows)


def without_padding(x: Float[Array, "I D"], nodes: Nodes | None) -> Float[Array, "I D"]:
    """Rows of this device's items, with 0 in the padding."""
    if nodes is None:
        return x
    return jnp.where((item_numbers(len(x), nodes) < nodes.all_items)[:, None], x, 0.0)
