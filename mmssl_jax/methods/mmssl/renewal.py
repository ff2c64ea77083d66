"""Renewing the learned graphs: over all users, or collected from batches as the release does."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmssl_jax.graph.bipartite import BipartiteGraph
from mmssl_jax.methods.mmssl.draws import Share
from mmssl_jax.methods.mmssl.learned_graphs import (
    EdgeList,
    Observed,
    RebuildBlocks,
    append_edges,
    learned_edges_of_all,
    learned_edges_of_batch,
    learned_graph,
    pad_edges,
    top_k_items,
)
from mmssl_jax.methods.mmssl.model import Embeddings
from mmssl_jax.methods.mmssl.state import Inputs, Setup, State, learned_edges_length
from mmssl_jax.nodes import axis_of, own_rows, rows_of_all_items
from mmssl_jax.norms import unit_rows
from mmssl_jax.parallel import all_gather, axis_index, axis_size, psum


def similarity_vectors(
    setup: Setup, embeddings: Embeddings, modality: str
) -> tuple[Float[Array, "U D"], Float[Array, "I D"]]:
    """A modality's user and item vectors whose inner product is the configured similarity."""
    users, items = embeddings.feature_user[modality], embeddings.feature_item[modality]
    if setup.config.structure.similarity == "cosine":
        return unit_rows(users), unit_rows(items)
    return users, items


def rebuild_for_all(setup: Setup, state: State, embeddings: Embeddings, inputs: Inputs) -> State:
    """Learned graphs of the top-k items of every user, from the given embeddings."""
    structure, sizes = setup.config.structure, setup.sizes
    blocks = RebuildBlocks(structure.block_users, structure.block_items, sizes.block_edges)
    observed = observed_of_rows(setup, inputs) if structure.mask_observed else None
    learned = {}
    for modality in embeddings.feature_user:
        users, items = similarity_vectors(setup, embeddings, modality)
        items = rows_of_all_items(items, setup.nodes)
        edges = learned_edges_of_all(
            users, items, observed, sizes.k, blocks, setup.config.precision
        )
        learned[modality] = graph_of(setup, edges)
    return state._replace(learned=learned)


def graph_of(setup: Setup, edges: EdgeList) -> BipartiteGraph:
    """The propagation graph of learned edges, of this device's users where rows are spread, in as
    many places as every learned graph has."""
    padded, sizes, nodes = pad_edges(edges, learned_edges_length(setup)), setup.sizes, setup.nodes
    if nodes is None:
        return learned_graph(padded, sizes.n_users, sizes.n_items)
    return learned_graph(padded, nodes.n_users, nodes.n_items * axis_size(nodes.axis), nodes)


def observed_of_rows(setup: Setup, inputs: Inputs) -> Observed:
    """The training interactions, with the number of the user of each of this device's rows; that of
    a row of padding is of no meaning."""
    rows, n_users = inputs.rows, setup.sizes.n_users
    numbers = jnp.arange(n_users, dtype=jnp.int32)
    if setup.nodes is not None:
        n_rows, axis = setup.nodes.n_users, setup.nodes.axis
        user_of = jnp.zeros(n_rows * axis_size(axis), jnp.int32)
        user_of = user_of.at[rows.of_users(numbers)].set(numbers)
        numbers = jax.lax.dynamic_slice_in_dim(user_of, axis_index(axis) * n_rows, n_rows)
    return Observed(rows, numbers)


def own_edges(setup: Setup, edges: EdgeList, inputs: Inputs) -> EdgeList:
    """Of edges by the numbers of users those of this device's users, by their rows here."""
    if setup.nodes is None:
        return edges
    n_rows = setup.nodes.n_users
    row = inputs.rows.of_users(edges.users) - axis_index(setup.nodes.axis) * n_rows
    is_here = edges.mask & (row >= 0) & (row < n_rows)
    return EdgeList(jnp.where(is_here, row, 0), edges.items, is_here)


def collect_or_rebuild(
    setup: Setup, state: State, embeddings: Embeddings, share: Share, inputs: Inputs
) -> State:
    """The release's schedule: collect the batches' top-k edges, and every T-th step of an epoch
    make the collected edges the graph instead, which empties the collection."""
    structure, nodes = setup.config.structure, setup.nodes
    step_in_epoch = state.step % setup.sizes.steps_per_epoch
    due = (step_in_epoch % structure.every == 0) & (step_in_epoch > 0)
    observed = share.edges if structure.mask_observed else None
    learned, pending = {}, {}
    for modality, graph in state.learned.items():
        collected = state.pending[modality]
        learned[modality] = replace_graph(setup, graph, own_edges(setup, collected, inputs), due)
        of_users, of_items = similarity_vectors(setup, embeddings, modality)
        top = top_k_items(
            own_rows(of_users, share.batch.users, nodes),
            rows_of_all_items(of_items, nodes),
            observed,
            setup.sizes.k,
            structure.block_items,
            setup.config.precision,
        )
        all_users, all_top = all_gather((share.users, top), setup.axis)
        new = learned_edges_of_batch(all_users, all_top, structure.edge_users)
        emptied = collected._replace(mask=jnp.zeros_like(collected.mask))
        pending[modality] = jax.tree.map(
            lambda if_due, if_not: jnp.where(due, if_due, if_not),
            emptied,
            append_edges(collected, new),
        )
    return state._replace(learned=learned, pending=pending)


def replace_graph(
    setup: Setup, graph: BipartiteGraph, collected: EdgeList, due: Bool[Array, ""]
) -> BipartiteGraph:
    """The graph of the collected edges if it is time to rebuild, else the graph as it is."""

    def keep() -> BipartiteGraph:
        return graph

    def empty() -> BipartiteGraph:
        weightless = jnp.zeros_like(graph.to_users.edges)
        return BipartiteGraph(*(directed._replace(edges=weightless) for directed in graph))

    def build() -> BipartiteGraph:
        return graph_of(setup, collected)

    # Sorting takes long, and an empty collection needs none.
    # All devices take the same branch, since they meet in it.
    is_any = psum(jnp.any(collected.mask).astype(jnp.int32), axis_of(setup.nodes)) > 0
    kind = jnp.where(due, jnp.where(is_any, 2, 1), 0)
    return jax.lax.switch(kind, [keep, empty, build])
