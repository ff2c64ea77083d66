"""LightGCN: He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for
Recommendation", SIGIR 2020 (arXiv 2002.02126).

With N(u) the training items of user u, d their number, and ID embeddings e^(0) alone as parameters:

    e_u^(l+1) = sum over i in N(u) of e_i^(l) / sqrt(d_u d_i)
    e_i^(l+1) = sum over u in N(i) of e_u^(l) / sqrt(d_u d_i)
    e = (e^(0) + .. + e^(L)) / (L + 1)                        score of u and i: e_u . e_i
    loss = mean over (u, i, j) of -log sigmoid(e_u . e_i - e_u . e_j)
           + regularization * (|E_u| + |E_i| + |E_j|) / B

E_u, E_i, E_j are the initial embeddings of a batch of B triples, |E| the square root of the sum of
squares: the regularisation of public benchmarks, where the paper has squares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Key
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt

from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.bipartite import BipartiteGraph, observed_graph
from mmssl_jax.graph.propagate import items_from_users, users_from_items
from mmssl_jax.graph.rows import InteractionRows, interaction_rows
from mmssl_jax.layout import Rows
from mmssl_jax.losses.bpr import bpr_loss, frobenius_norm
from mmssl_jax.method import Metrics, Vectors
from mmssl_jax.methods.trained import BenchmarkConfig, Step, Trained, of_batch
from mmssl_jax.nodes import Nodes
from mmssl_jax.optimizers import Descent


@dataclass(frozen=True)
class LightGCNSettings:
    """Embeddings, propagation and regularisation."""

    dim: PositiveInt = 64
    """Width of every embedding."""
    layers: NonNegativeInt = 2
    """Propagation rounds L."""
    regularization: NonNegativeFloat = 1e-3
    """Weight of the norms of a batch's initial embeddings, per triple."""


@dataclass(frozen=True)
class LightGCNConfig(BenchmarkConfig):
    """All settings of LightGCN."""

    method: str = "lightgcn"
    """Method to train. Each has its own settings: --method NAME --help."""
    lightgcn: LightGCNSettings = field(default_factory=LightGCNSettings)


class Inputs(NamedTuple):
    """The graph of the training interactions, and these by user."""

    graph: BipartiteGraph
    rows: InteractionRows


class Params(NamedTuple):
    """ID embeddings."""

    users: Float[Array, "U D"]
    items: Float[Array, "I D"]


def rounds(
    graph: BipartiteGraph,
    users: Float[Array, "U D"],
    items: Float[Array, "I D"],
    layers: int,
    nodes: Nodes | None = None,
) -> list[Vectors]:
    """The embeddings before the first and after each of `layers` rounds."""
    found = [Vectors(users, items)]
    for _ in range(layers):
        users, items = (
            users_from_items(graph.to_users, items, len(users), nodes),
            items_from_users(graph.to_items, users, len(items), nodes),
        )
        found.append(Vectors(users, items))
    return found


def light_gcn(
    graph: BipartiteGraph,
    users: Float[Array, "U D"],
    items: Float[Array, "I D"],
    layers: int,
    nodes: Nodes | None = None,
) -> Vectors:
    """The mean of the embeddings before the first and after each of `layers` rounds."""
    of_users, of_items = zip(*rounds(graph, users, items, layers, nodes), strict=True)
    return Vectors(sum(of_users) / (layers + 1), sum(of_items) / (layers + 1))


def xavier_tables(
    key: Key[Array, ""], heights: Sequence[int], dim: int
) -> tuple[Float[Array, "N D"], ...]:
    """Xavier-uniform tables of these heights, each with a key of its own."""
    xavier, keys = nn.initializers.xavier_uniform(), jax.random.split(key, len(heights))
    return tuple(xavier(k, (height, dim)) for k, height in zip(keys, heights, strict=True))


@dataclass(frozen=True)
class LightGCN(Trained):
    """LightGCN behind the contract of `mmssl_jax/method.py`."""

    TITLE: ClassVar[str] = "LightGCN"
    CONFIG: ClassVar[type[Config]] = LightGCNConfig
    ROWS: ClassVar[Rows] = {"*users": "users", "*items": "items"}
    SPACE: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "lightgcn.layers": {"low": 1, "high": 4},
        "lightgcn.regularization": {"low": 1e-5, "high": 1e-1, "log": True},
    }

    def inputs(self, dataset: Dataset) -> Inputs:
        """The symmetrically normalised graph, and the training interactions by user."""
        size = dataset.n_users, dataset.n_items
        graph = observed_graph(dataset.train, *size, "symmetric")
        return Inputs(graph, interaction_rows(dataset.train, *size))

    def parameters(self, key: Key[Array, ""], inputs: Inputs) -> Params:
        """Xavier-uniform embeddings."""
        return Params(*xavier_tables(key, (self.n_users, self.n_items), self.config.lightgcn.dim))

    def loss(self, params: Params, step: Step, inputs: Inputs) -> tuple[Float[Array, ""], Metrics]:
        """The ranking loss and the norms of the initial embeddings."""
        settings, batch = self.config.lightgcn, step.batch
        final = light_gcn(inputs.graph, params.users, params.items, settings.layers, self.nodes)
        bpr = bpr_loss(*of_batch(final, batch, self.nodes))
        initial = of_batch(Vectors(params.users, params.items), batch, self.nodes)
        norms = sum(frobenius_norm(rows, self.axis) for rows in initial)
        total = bpr + settings.regularization * norms / self.config.sampling.batch_size
        return total, {"bpr": bpr, "loss": total}

    def embed(self, state: Descent, inputs: Inputs) -> Vectors:
        """The final embeddings."""
        users, items = state.params.users, state.params.items
        return light_gcn(inputs.graph, users, items, self.config.lightgcn.layers, self.nodes)
