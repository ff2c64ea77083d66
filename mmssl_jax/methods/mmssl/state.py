"""What a step of MMSSL reads and changes, and what is static."""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.bipartite import BipartiteGraph, observed_graph
from mmssl_jax.graph.rows import InteractionRows, interaction_rows, most_batch_edges
from mmssl_jax.layout import Rows, is_by_row
from mmssl_jax.methods.mmssl.config import MMSSLConfig
from mmssl_jax.methods.mmssl.encoders import partial_modality
from mmssl_jax.methods.mmssl.game.critic import Critic, hidden_widths
from mmssl_jax.methods.mmssl.learned_graphs import (
    EdgeList,
    edges_per_user,
    empty_edges,
    learned_graph,
    pad_edges,
)
from mmssl_jax.methods.mmssl.model import Embeddings, Generator, ObservedGraphs
from mmssl_jax.nodes import Nodes
from mmssl_jax.optimizers import adam, adamw
from mmssl_jax.sampling import steps_per_epoch

Params: TypeAlias = PyTree


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


@dataclass(frozen=True)
class Setup:
    """What is static: settings, sizes, the name of the devices that share a batch, or None, and how
    rows are spread over them, or None."""

    config: MMSSLConfig
    sizes: Sizes
    axis: str | None = None
    nodes: Nodes | None = None

    def graph_edges(self) -> int:
        """Places for a learned graph's edges, or for those of this device's users."""
        return learned_edges_length(self)


class Inputs(NamedTuple):
    """Arrays of the dataset that every step reads and none changes."""

    features: dict[str, Float[Array, "I _F"]]
    observed: ObservedGraphs
    rows: InteractionRows


class State(NamedTuple):
    """Everything that changes; the learned graphs and collected edges are keyed by modality.

    `critic` and its moments are None where no adversarial game is played. `pending` is empty unless
    the learned graphs come from batches. `step` counts for the graphs' schedule.
    """

    step: Int[Array, ""]
    generator: Params
    critic: Params | None
    generator_opt: optax.OptState
    critic_opt: optax.OptState | None
    learned: dict[str, BipartiteGraph]
    pending: dict[str, EdgeList]


def problem_sizes(dataset: Dataset, config: MMSSLConfig, n_devices: int) -> Sizes:
    """Static sizes for a dataset and a number of devices."""
    batch_size = config.sampling.batch_size
    degree = np.bincount(dataset.train[:, 0], minlength=dataset.n_users)
    k = edges_per_user(config.structure.k, config.structure.k_rate, dataset.n_items)
    by_batch = config.structure.source == "batches"
    return Sizes(
        n_users=dataset.n_users,
        n_items=dataset.n_items,
        n_train=len(dataset.train),
        steps_per_epoch=steps_per_epoch(len(dataset.train), batch_size),
        k=k,
        batch_edges=most_batch_edges(
            degree, batch_size, n_devices, config.sampling.by == "interaction"
        ),
        block_edges=most_batch_edges(degree, config.structure.block_users, 1, False),
        # Up to T - 1 steps after the last rebuild of an epoch and the first T of the next.
        # One place at least, since a checkpoint holds no empty array.
        pending_edges=max(1, (2 * config.structure.every - 1) * batch_size * k) if by_batch else 0,
    )


def make_inputs(dataset: Dataset, config: MMSSLConfig) -> Inputs:
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


def generator_module(setup: Setup) -> Generator:
    """The recommender of these sizes, or of this device's rows."""
    here = setup.sizes if setup.nodes is None else setup.nodes
    return Generator(here.n_users, here.n_items, setup.config.model, setup.nodes)


def critic_module(setup: Setup) -> Critic:
    """The critic of these sizes; its batch statistics are those of all devices."""
    config = setup.config
    return Critic(setup.sizes.n_items, config.critic, setup.axis, config.precision, setup.nodes)


ROWS: Rows = {
    "*user_embedding": "users",
    "*item_embedding": "items",
    "features/*": "items",
    "*/present": "items",
    "*first_kernel": "items",
}
"""What of MMSSL's inputs and state has a row per user or item."""


def spread_params(setup: Setup, params: Params) -> PyTree | None:
    """Which of a player's parameters have rows that are spread; None where none has."""
    return None if setup.nodes is None else is_by_row(params, ROWS)


def critic_optimizer(config: MMSSLConfig) -> optax.GradientTransformation:
    """Adam with the critic's rate and moment decays."""
    return adam(config.optim.critic_lr, *config.optim.critic_betas)


def forward(
    setup: Setup,
    params: Params,
    learned: dict[str, BipartiteGraph],
    inputs: Inputs,
    dropout: Key[Array, ""] | None,
) -> Embeddings:
    """The generator's embeddings; without a dropout key, in evaluation mode."""
    rngs = None if dropout is None else {"dropout": dropout}
    embeddings: Embeddings = generator_module(setup).apply(  # type: ignore[assignment]
        {"params": params}, inputs.features, inputs.observed, learned, dropout is None, rngs=rngs
    )
    return embeddings


def initial_learned_graph(setup: Setup, inputs: Inputs) -> BipartiteGraph:
    """The observed interactions, in as many places as any later learned graph needs."""
    rows, sizes = inputs.rows, setup.sizes
    all_observed = jnp.ones(sizes.n_train, bool)
    observed = EdgeList(rows.users, rows.items, all_observed)
    return learned_graph(
        pad_edges(observed, learned_edges_length(setup)), sizes.n_users, sizes.n_items
    )


def learned_edges_length(setup: Setup) -> int:
    """Places of a learned graph, or of the edges of this device's users: enough for the observed
    edges and for any rebuild. Those from batches may all be of one device's users."""
    sizes, nodes = setup.sizes, setup.nodes
    n_users, n_observed = sizes.n_users, sizes.n_train
    if nodes is not None:
        n_users, n_observed = nodes.n_users, nodes.n_edges
    from_batches = setup.config.structure.source == "batches"
    return max(n_observed, sizes.pending_edges if from_batches else n_users * sizes.k)


def init_state(setup: Setup, key: Key[Array, ""], inputs: Inputs) -> State:
    """The state before the first step."""
    config, sizes = setup.config, setup.sizes
    generator_key, critic_key, _ = jax.random.split(key, 3)  # the third is the run's, for its steps
    learned = dict.fromkeys(inputs.features, initial_learned_graph(setup, inputs))
    generator = generator_module(setup).init(
        generator_key, inputs.features, inputs.observed, learned, True
    )["params"]
    critic = None
    if config.has_critic:
        first_width = hidden_widths(config.critic, sizes.n_items)[0]
        nothing = jnp.zeros((2, first_width))
        critic = critic_module(setup).init(critic_key, nothing, True)["params"]
    return State(
        step=jnp.int32(0),
        generator=generator,
        critic=critic,
        generator_opt=adamw(config.optim, sizes.steps_per_epoch).init(generator),
        critic_opt=None if critic is None else critic_optimizer(config).init(critic),
        learned=learned,
        pending={m: empty_edges(sizes.pending_edges) for m in learned if sizes.pending_edges},
    )
