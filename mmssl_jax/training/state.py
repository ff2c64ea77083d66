"""What training holds: constant inputs, static sizes, and the state that a step maps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.bipartite import BipartiteGraph, observed_graph
from mmssl_jax.graph.rows import InteractionRows, interaction_rows, most_batch_edges
from mmssl_jax.graph.structure import (
    EdgeList,
    edges_per_user,
    empty_edges,
    learned_graph,
    pad_edges,
)
from mmssl_jax.model.critic import Critic, hidden_widths
from mmssl_jax.model.encoders import partial_modality
from mmssl_jax.model.mmssl import MMSSL, ObservedGraphs
from mmssl_jax.training.optimizers import critic_optimizer, generator_optimizer


class Inputs(NamedTuple):
    """Arrays of the dataset that every step reads and none changes."""

    features: dict[str, Float[Array, "I _F"]]
    observed: ObservedGraphs
    rows: InteractionRows


class Sizes(NamedTuple):
    """Static sizes of a training problem."""

    n_users: int
    n_items: int
    n_train: int
    steps_per_epoch: int
    k: int  # learned edges per user
    batch_edges: int  # most interactions of one device's share of a batch
    block_edges: int  # most interactions of one block of users in a rebuild
    pending_edges: int  # learned edges collected between two rebuilds from batches


class TrainState(NamedTuple):
    """Everything that changes; the learned graphs and collected edges are keyed by modality.

    `pending` is empty unless the learned graphs come from batches.
    """

    step: Int[Array, ""]
    key: Key[Array, ""]
    generator: Any
    critic: Any
    generator_opt: optax.OptState
    critic_opt: optax.OptState
    learned: dict[str, BipartiteGraph]
    pending: dict[str, EdgeList]


def problem_sizes(dataset: Dataset, config: Config, n_devices: int) -> Sizes:
    """Static sizes for a dataset and a number of devices."""
    batch_size = config.sampling.batch_size
    degree = np.bincount(dataset.train[:, 0], minlength=dataset.n_users)
    k = edges_per_user(config.structure.k, config.structure.k_rate, dataset.n_items)
    by_batch = config.structure.source == "batches"
    return Sizes(
        n_users=dataset.n_users,
        n_items=dataset.n_items,
        n_train=len(dataset.train),
        steps_per_epoch=len(dataset.train) // batch_size + 1,
        k=k,
        batch_edges=most_batch_edges(
            degree, batch_size, n_devices, config.sampling.by == "interaction"
        ),
        block_edges=most_batch_edges(degree, config.structure.block_users, 1, False),
        # Up to T - 1 steps after the last rebuild of an epoch and the first T of the next.
        # One place at least, since a checkpoint holds no empty array.
        pending_edges=max(1, (2 * config.structure.every - 1) * batch_size * k) if by_batch else 0,
    )


def make_inputs(dataset: Dataset, config: Config) -> Inputs:
    """Puts the dataset's features, graphs and rows on the device."""
    train, n_users, n_items = dataset.train, dataset.n_users, dataset.n_items
    normalization = config.model.feature_normalization
    of_features = observed_graph(train, n_users, n_items, normalization)
    same = config.model.id_normalization == normalization
    return Inputs(
        features={name: jnp.asarray(raw) for name, raw in dataset.features.items()},
        observed=ObservedGraphs(
            features=of_features,
            ids=of_features
            if same
            else observed_graph(train, n_users, n_items, config.model.id_normalization),
            partial={
                name: partial_modality(train, n_users, present, normalization)
                for name, present in dataset.presence.items()
            },
        ),
        rows=interaction_rows(train, n_users, n_items),
    )


def generator_module(config: Config, sizes: Sizes) -> MMSSL:
    """The recommender of these sizes."""
    return MMSSL(sizes.n_users, sizes.n_items, config.model)


def critic_module(config: Config, sizes: Sizes, axis: str | None = None) -> Critic:
    """The critic of these sizes; `axis` is where its batch statistics are combined."""
    return Critic(sizes.n_items, config.critic, axis, config.precision)


def initial_learned_graph(inputs: Inputs, config: Config, sizes: Sizes) -> BipartiteGraph:
    """The observed interactions, in as many places as any later learned graph needs."""
    rows = inputs.rows
    all_observed = jnp.ones(sizes.n_train, bool)
    observed = EdgeList(rows.users, rows.items, all_observed)
    return learned_graph(
        pad_edges(observed, learned_edges_length(config, sizes)),
        sizes.n_users,
        sizes.n_items,
        "receiver",
    )


def learned_edges_length(config: Config, sizes: Sizes) -> int:
    """Places of a learned graph: enough for the observed edges and for any rebuild."""
    from_batches = config.structure.source == "batches"
    rebuilt = sizes.pending_edges if from_batches else sizes.n_users * sizes.k
    return max(sizes.n_train, rebuilt)


def init_state(inputs: Inputs, config: Config, sizes: Sizes) -> TrainState:
    """The state before the first step; deterministic in `train.seed`."""
    # Named, since the dropout masks read its words and JAX's default may be set otherwise.
    key = jax.random.key(config.train.seed, impl="threefry2x32")
    generator_key, critic_key, step_key = jax.random.split(key, 3)
    graph = initial_learned_graph(inputs, config, sizes)
    learned = dict.fromkeys(inputs.features, graph)
    generator = generator_module(config, sizes).init(
        generator_key, inputs.features, inputs.observed, learned, True
    )["params"]
    first_width = hidden_widths(config.critic, sizes.n_items)[0]
    critic = critic_module(config, sizes).init(critic_key, jnp.zeros((2, first_width)), True)[
        "params"
    ]
    return TrainState(
        step=jnp.int32(0),
        key=step_key,
        generator=generator,
        critic=critic,
        generator_opt=generator_optimizer(config.optim, sizes.steps_per_epoch).init(generator),
        critic_opt=critic_optimizer(config.optim).init(critic),
        learned=learned,
        pending={m: empty_edges(sizes.pending_edges) for m in learned if sizes.pending_edges},
    )
