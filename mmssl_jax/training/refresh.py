"""Renewing the learned graphs: over all users, or collected from batches as the release does."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmssl_jax.config import Config
from mmssl_jax.graph.bipartite import BipartiteGraph
from mmssl_jax.graph.structure import (
    EdgeList,
    append_edges,
    learned_edges_of_all,
    learned_edges_of_batch,
    learned_graph,
    pad_edges,
    top_k_items,
)
from mmssl_jax.model.mmssl import Embeddings
from mmssl_jax.model.norms import unit_rows
from mmssl_jax.parallel import gather_over
from mmssl_jax.training.draws import Share
from mmssl_jax.training.state import Inputs, Sizes, TrainState, learned_edges_length


def similarity_vectors(
    embeddings: Embeddings, modality: str, config: Config
) -> tuple[Float[Array, "U D"], Float[Array, "I D"]]:
    """A modality's user and item vectors whose inner product is the configured similarity."""
    users, items = embeddings.feature_user[modality], embeddings.feature_item[modality]
    if config.structure.similarity == "cosine":
        return unit_rows(users), unit_rows(items)
    return users, items


def rebuild_for_all(
    state: TrainState, embeddings: Embeddings, inputs: Inputs, config: Config, sizes: Sizes
) -> TrainState:
    """Learned graphs of the top-k items of every user, from the given embeddings."""
    learned = {}
    for modality in embeddings.feature_user:
        edges = learned_edges_of_all(
            *similarity_vectors(embeddings, modality, config),
            inputs.rows if config.structure.mask_observed else None,
            sizes.k,
            config.structure.block_users,
            sizes.block_edges,
            config.structure.block_items,
            config.precision,
        )
        edges = pad_edges(edges, learned_edges_length(config, sizes))
        learned[modality] = learned_graph(edges, sizes.n_users, sizes.n_items, "receiver")
    return state._replace(learned=learned)


def collect_or_rebuild(
    state: TrainState,
    embeddings: Embeddings,
    share: Share,
    config: Config,
    sizes: Sizes,
    axis: str | None,
) -> TrainState:
    """The release's schedule: collect the batches' top-k edges, and every T-th step of an epoch
    make the collected edges the graph instead, which empties the collection."""
    step_in_epoch = state.step % sizes.steps_per_epoch
    rebuild = (step_in_epoch % config.structure.every == 0) & (step_in_epoch > 0)
    learned, pending = {}, {}
    for modality, graph in state.learned.items():
        collected = state.pending[modality]
        learned[modality] = replace_graph(graph, collected, rebuild, config, sizes)
        observed = share.edges if config.structure.mask_observed else None
        of_users, of_items = similarity_vectors(embeddings, modality, config)
        top = top_k_items(
            of_users[share.batch.users],
            of_items,
            observed,
            sizes.k,
            config.structure.block_items,
            config.precision,
        )
        users, top = gather_over((share.batch.users, top), axis)
        longer = append_edges(
            collected, learned_edges_of_batch(users, top, config.structure.edge_users)
        )
        emptied = collected._replace(mask=jnp.zeros_like(collected.mask))
        pending[modality] = jax.tree.map(
            lambda if_rebuilt, if_not: jnp.where(rebuild, if_rebuilt, if_not), emptied, longer
        )
    return state._replace(learned=learned, pending=pending)


def replace_graph(
    graph: BipartiteGraph,
    collected: EdgeList,
    rebuild: Bool[Array, ""],
    config: Config,
    sizes: Sizes,
) -> BipartiteGraph:
    """The graph of the collected edges if it is time to rebuild, else the graph as it is."""

    def keep() -> BipartiteGraph:
        return graph

    def empty() -> BipartiteGraph:
        weightless = jnp.zeros_like(graph.to_users.edges)
        return BipartiteGraph(*(directed._replace(edges=weightless) for directed in graph))

    def build() -> BipartiteGraph:
        edges = pad_edges(collected, learned_edges_length(config, sizes))
        return learned_graph(edges, sizes.n_users, sizes.n_items, "receiver")

    # Sorting is dear and an empty collection needs none.
    kind = jnp.where(rebuild, jnp.where(jnp.any(collected.mask), 2, 1), 0)
    return jax.lax.switch(kind, [keep, empty, build])
