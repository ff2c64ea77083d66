"""Where the rows of a method's arrays lie: whole on every device, or spread over them.

A method makes its inputs and its first state whole, in the numbers of the dataset, and checkpoints
hold states in that form, which is the same for any number of devices. Here they are spread, and
made whole again.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Int, PyTree

from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.graph.bipartite import BipartiteGraph, Ends, bipartite_graph
from mmssl_jax.graph.rows import InteractionRows
from mmssl_jax.graph.sparse import SparseMatrix
from mmssl_jax.method import Vectors
from mmssl_jax.nodes import Nodes, deal_users
from mmssl_jax.parallel import AXIS, BY_ROW, WHOLE, is_place

Side = Literal["users", "items"]
Rows = Mapping[str, Side | None]
"""{pattern: side} of the arrays that have a row per user or per item, and of the sparse matrices
whose rows are users or items. A pattern is matched with the names on the way to an array, such as
`params/users`, by the rules of file names; the first that fits counts, None for neither side.
Graphs are found by their type."""
Owner = Literal["senders", "receivers"]
_TYPED = (BipartiteGraph, SparseMatrix, jraph.GraphsTuple, InteractionRows)


class Layout(NamedTuple):
    """How users and items are spread over N devices.

    user_rows: the row of each user. user_of: the user of each row, and n_users for padding.
    """

    nodes: Nodes
    n_devices: int
    n_users: int
    n_items: int
    user_rows: Int[np.ndarray, " U"]
    user_of: Int[np.ndarray, " R"]

    def side(self, side: Side) -> tuple[Int[np.ndarray, " U"] | None, int]:
        """The rows of a side's nodes, None where a row is the node's number, and how many of them a
        device has."""
        if side == "users":
            return self.user_rows, self.nodes.n_users
        return None, self.nodes.n_items


def make_layout(dataset: Dataset, n_devices: int) -> Layout:
    """Users dealt by their training interactions, items in equal ranges.

    Raises DatasetError for more interactions than can be counted.
    """
    degree = np.bincount(dataset.train[:, 0], minlength=dataset.n_users)
    user_rows = deal_users(degree, n_devices)
    # An even number of items, since noise is drawn for pairs of them.
    n_users, n_items = -(-dataset.n_users // n_devices), 2 * -(-dataset.n_items // (2 * n_devices))
    user_of = np.full(n_users * n_devices, dataset.n_users, np.int32)
    user_of[user_rows] = np.arange(dataset.n_users)
    most = int(np.bincount(user_rows // n_users, degree, n_devices).max())
    if most * n_devices >= 2**31:
        raise DatasetError(
            f"{dataset.source} has more training interactions than fit on {n_devices} devices with "
            f"int32 places ({most} each at most): use --parallel.tables replicated"
        )
    nodes = Nodes(AXIS, n_users, n_items, most, dataset.n_items)
    return Layout(nodes, n_devices, dataset.n_users, dataset.n_items, user_rows, user_of)


def places(tree: PyTree, rows: Rows) -> PyTree:
    """For each array of a tree, which may be abstract, BY_ROW or WHOLE."""

    def of_array(_: Any, side: Side | None) -> Any:
        return BY_ROW if side else WHOLE

    def of_typed(node: Any, _: Any) -> Any:
        if isinstance(node, InteractionRows):
            return jax.tree.map(lambda _: WHOLE, node)
        return _map_graphs(lambda graph, _: _edges_by_row(graph), node)

    return _map_parts(tree, rows, of_array, of_typed)


def is_by_row(tree: PyTree, rows: Rows) -> PyTree:
    """For each array of a tree, whether its rows are spread."""
    return jax.tree.map(lambda place: place == BY_ROW, places(tree, rows), is_leaf=is_place)


def lay_out(tree: PyTree, layout: Layout, rows: Rows, n_edges: int | None = None) -> PyTree:
    """A whole tree with its rows, and the edges of their nodes, where they lie when spread.

    n_edges: places for the edges of a device; None for as many as the fullest device needs, which
      needs arrays that are no tracers.
    """

    def of_array(array: Array, side: Side | None) -> Array:
        return array if side is None else _spread_rows(array, layout, side)

    def of_typed(node: Any, side: Side | None) -> Any:
        if isinstance(node, InteractionRows):
            return node._replace(user_rows=jnp.asarray(layout.user_rows))
        side = "items" if isinstance(node, SparseMatrix) and side == "items" else "users"
        return _map_graphs(
            lambda graph, owner: _spread_edges(graph, owner, layout, side, n_edges), node
        )

    return _map_parts(tree, rows, of_array, of_typed)


def make_whole(tree: PyTree, like: PyTree, layout: Layout, rows: Rows) -> PyTree:
    """The whole tree of one that was laid out; graphs have as many places as in `like`."""

    def visit(path: tuple, node: Any, whole: Any) -> Any:
        side = _side_of(path, rows)
        if _is_typed(node):
            return _whole_graph(node, layout, whole.to_users.edges.shape[0])
        if side is None:
            return node
        return node[jnp.asarray(layout.user_rows)] if side == "users" else node[: layout.n_items]

    return jax.tree.map_with_path(visit, tree, like, is_leaf=_is_typed)


def whole_rows(vectors: Vectors, layout: Layout) -> Vectors:
    """The vectors of all users and items, in their numbers."""
    return Vectors(vectors.users[jnp.asarray(layout.user_rows)], vectors.items[: layout.n_items])


def _is_typed(node: Any) -> bool:
    return isinstance(node, _TYPED)


def _map_parts(
    tree: PyTree,
    rows: Rows,
    of_array: Callable[[Any, Side | None], Any],
    of_typed: Callable[[Any, Side | None], Any],
) -> PyTree:
    """`of_typed` of each graph and of the interactions, `of_array` of each other array, with its
    side."""

    def visit(path: tuple, node: Any) -> Any:
        side = _side_of(path, rows)
        return of_typed(node, side) if _is_typed(node) else of_array(node, side)

    return jax.tree.map_with_path(visit, tree, is_leaf=_is_typed)


def _side_of(path: tuple, rows: Rows) -> Side | None:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return next((side for pattern, side in rows.items() if fnmatchcase(name, pattern)), None)


def _map_graphs(change: Callable[[jraph.GraphsTuple, Owner], Any], node: Any) -> Any:
    """Changes the directed graphs of a node; who has the edges are a graph's users, or the rows of
    a matrix, which are its receivers in the first direction and its senders in the other."""
    if isinstance(node, jraph.GraphsTuple):
        return change(node, "receivers")
    return type(node)(change(node[0], "receivers"), change(node[1], "senders"))


def _edges_by_row(graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
    return jax.tree.map(lambda _: WHOLE, graph)._replace(
        edges=BY_ROW, senders=BY_ROW, receivers=BY_ROW
    )


def _spread_rows(array: Array, layout: Layout, side: Side) -> Array:
    if side == "users":
        user_of = jnp.asarray(layout.user_of)
        return jnp.take(array, user_of, axis=0, mode="fill", fill_value=0)
    missing = layout.nodes.n_items * layout.n_devices - layout.n_items
    return jnp.pad(array, ((0, missing), *[(0, 0)] * (array.ndim - 1)))


def _spread_edges(
    graph: jraph.GraphsTuple, owner: Owner, layout: Layout, side: Side, length: int | None
) -> jraph.GraphsTuple:
    """The edges of each device in turn, `length` places each, their owner counted within the
    device. Those that weigh nothing are left out; a device's edges stay sorted by receiver."""
    rows, n_rows = layout.side(side)
    ids = getattr(graph, owner)
    row = ids if rows is None else jnp.asarray(rows)[ids]
    counts_here = graph.edges != 0
    device = jnp.where(counts_here, row // n_rows, layout.n_devices)
    # As `bipartite_graph` sorts them, so that sums over them are the same to the last bit.
    within = row % n_rows
    order = jnp.lexsort(
        (within, device) if owner == "receivers" else (within, graph.receivers, device)
    )
    device = device[order]
    sizes = jnp.bincount(device, length=layout.n_devices + 1)
    if length is None:
        length = max(1, int(sizes[:-1].max()))
    rank = jnp.arange(len(order)) - (jnp.cumsum(sizes) - sizes)[device]
    place = jnp.where(device < layout.n_devices, device * length + rank, layout.n_devices * length)

    def put(values: Array, padding: Array | int) -> Array:
        start = jnp.full(layout.n_devices * length, padding, values.dtype)
        return start.at[place].set(values[order], mode="drop")

    if owner == "receivers":
        senders, receivers = put(graph.senders, 0), put(within, n_rows - 1)
    else:
        senders, receivers = put(within, 0), put(graph.receivers, graph.receivers[-1])
    return graph._replace(edges=put(graph.edges, 0), senders=senders, receivers=receivers)


def _whole_graph(graph: BipartiteGraph, layout: Layout, length: int) -> BipartiteGraph:
    """The learned graph of edges that lie by user, in `length` places, with the weights that
    `learned_graph` gives it."""
    edges = graph.to_users
    n_rows, per_device = layout.nodes.n_users, len(edges.edges) // layout.n_devices
    row = jnp.arange(len(edges.edges)) // per_device * n_rows + edges.receivers
    mask = edges.edges != 0
    user = jnp.where(mask, jnp.asarray(layout.user_of)[row], layout.n_users)
    order = jnp.argsort(user, stable=True)[:length]
    users, items, mask = (x[order] for x in (user, edges.senders, mask))
    users = jnp.where(mask, users, 0)
    missing = max(0, length - len(order))
    users, items, mask = (jnp.pad(x, (0, missing)) for x in (users, items, mask))
    ends = Ends(users, layout.n_users), Ends(items, layout.n_items)
    return bipartite_graph(*ends, mask, "receiver")
