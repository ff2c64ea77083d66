"""Renewing the learned graphs: over all users, or collected from batches as the release does."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmssl_jax.graph.bipartite import BipartiteGraph
from mmssl_jax.methods.mmssl.draws import Share
from mmssl_jax.methods.mmssl.learned_graphs import (
    EdgeList,
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
from mmssl_jax.norms import unit_rows
from mmssl_jax.parallel import all_gather


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
    observed = inputs.rows if structure.mask_observed else None
    learned = {}
    for modality in embeddings.feature_user:
        users, items = similarity_vectors(setup, embeddings, modality)
        edges = learned_edges_of_all(
            users, items, observed, sizes.k, blocks, setup.config.precision
        )
        learned[modality] = graph_of(setup, edges)
    return state._replace(learned=learned)


def graph_of(setup: Setup, edges: EdgeList) -> BipartiteGraph:
    """The propagation graph of learned edges, in as many places as every learned graph has."""
    padded = pad_edges(edges, learned_edges_length(setup))
    return learned_graph(padded, setup.sizes.n_users, setup.sizes.n_items)


def collect_or_rebuild(setup: Setup, state: State, embeddings: Embeddings, share: Share) -> State:
    """The release's schedule: collect the batches' top-k edges, and every T-th step of an epoch
    make the collected edges the graph instead, which empties the collection."""
    structure, users = setup.config.structure, share.batch.users
    step_in_epoch = state.step % setup.sizes.steps_per_epoch
    due = (step_in_epoch % structure.every == 0) & (step_in_epoch > 0)
    observed = share.edges if structure.mask_observed else None
    learned, pending = {}, {}
    for modality, graph in state.learned.items():
        collected = state.pending[modality]
        learned[modality] = replace_graph(setup, graph, collected, due)
        of_users, of_items = similarity_vectors(setup, embeddings, modality)
        top = top_k_items(
            of_users[users],
            of_items,
            observed,
            setup.sizes.k,
            structure.block_items,
            setup.config.precision,
        )
        all_users, all_top = all_gather((users, top), setup.axis)
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
    kind = jnp.where(due, jnp.where(jnp.any(collected.mask), 2, 1), 0)
    return jax.lax.switch(kind, [keep, empty, build])
