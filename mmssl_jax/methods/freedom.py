"""FREEDOM: Zhou and Shen, "A Tale of Two Graphs: Freezing and Denoising Graph Structures for
Multimodal Recommendation", ACM MM 2023 (arXiv 2211.06924).

An item graph from raw features is built once and frozen. N_m(i) are item i's k nearest by the
cosine of modality m, itself among them, and w_m the modalities' weights:

    S_ij = sum over m of w_m [j in N_m(i)] / k,                      h = S E_I

The user-item graph is thinned: each epoch keeps the share 1 - rho of the edges, drawn without
replacement with probability in proportion to (d_u d_i)^-1/2, and is normalised anew. On it

    u, c = LightGCN(E_U, E_I),     i = c + h,                        score of u and i: u . i
    loss = BPR(u, i) + lambda * sum over m of BPR(u, W_m f_i^m)

f^m are the raw features; a bias of W_m would cancel. What ranks is propagated over all edges. An
item that lacks a modality has the weights of the others, made to sum to 1; a triple whose items do
not both have it counts as undecided, without a gradient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Bool, Float, Int, Key
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt

from mmssl_jax.config import Config, ConfigError, Fraction
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.bipartite import (
    BipartiteGraph,
    Ends,
    bipartite_graph,
    edge_weights,
    observed_graph,
)
from mmssl_jax.graph.item_graph import (
    item_features,
    item_presence,
    mixed_neighbours,
    modality_neighbours,
    neighbour_matrix,
)
from mmssl_jax.graph.propagate import propagate
from mmssl_jax.graph.rows import InteractionRows, interaction_rows
from mmssl_jax.losses.bpr import bpr_loss
from mmssl_jax.method import Metrics, Vectors
from mmssl_jax.methods.lightgcn import light_gcn, xavier_tables
from mmssl_jax.methods.linear import xavier_kernel
from mmssl_jax.methods.trained import BenchmarkConfig, Step, Trained, of_batch
from mmssl_jax.optimizers import Descent
from mmssl_jax.sampling import Batch


@dataclass(frozen=True)
class FreedomSettings:
    """Embeddings, the two graphs and the loss on features."""

    dim: PositiveInt = 64
    """Width of every embedding."""
    layers: NonNegativeInt = 2
    """Propagation rounds over the user-item graph."""
    k: PositiveInt = 10
    """Nearest items of each item per modality, itself included."""
    modality_weights: tuple[NonNegativeFloat, ...] = ()
    """Weights w_m of the modalities in the item graph, in the order of their names; only their
    ratios matter. Empty: all equal."""
    dropped: Fraction = 0.8
    """Share rho of the interactions that an epoch leaves out of the user-item graph."""
    feature_weight: NonNegativeFloat = 1e-3
    """Weight lambda of each modality's ranking loss on projected features."""


@dataclass(frozen=True)
class FreedomConfig(BenchmarkConfig):
    """All settings of FREEDOM."""

    method: str = "freedom"
    """Method to train. Each has its own settings: --method NAME --help."""
    freedom: FreedomSettings = field(default_factory=FreedomSettings)


class Inputs(NamedTuple):
    """Both graphs whole, log (d_u d_i)^-1/2 of each interaction, and the raw features."""

    rows: InteractionRows
    graph: BipartiteGraph
    log_weights: Float[Array, " E"]
    item_graph: jraph.GraphsTuple
    features: dict[str, Float[Array, "I _F"]]
    present: dict[str, Bool[Array, " I"]]


class Params(NamedTuple):
    """ID embeddings, and W_m of each modality."""

    users: Float[Array, "U D"]
    items: Float[Array, "I D"]
    projections: dict[str, Float[Array, "_F D"]]


class Thinned(NamedTuple):
    """The user-item graph of an epoch, and the key of those to come."""

    key: Key[Array, ""]
    graph: BipartiteGraph


def modality_weights(weights: Sequence[float], modalities: Sequence[str]) -> dict[str, float]:
    """{modality: its weight}. Raises ConfigError for another number of weights, or none above 0."""
    if not weights:
        return dict.fromkeys(modalities, 1.0)
    if len(weights) != len(modalities) or not any(weights):
        raise ConfigError(
            f"freedom.modality_weights is {list(weights)}; expected {len(modalities)} numbers, not "
            f"all 0, for {', '.join(modalities)} in this order; or leave it empty for equal weights"
        )
    return dict(zip(modalities, weights, strict=True))


def draw_edges(
    key: Key[Array, ""], log_weights: Float[Array, " E"], n_kept: int
) -> Int[Array, " N"]:
    """`n_kept` different edges, each drawn among those left in proportion to its weight: the
    largest of the log weights with Gumbel noise."""
    noise = jax.random.gumbel(key, log_weights.shape, log_weights.dtype)
    return jax.lax.top_k(log_weights + noise, n_kept)[1]


def feature_bpr(
    users: Float[Array, "B D"],
    kernel: Float[Array, "F D"],
    features: Float[Array, "I F"],
    present: Bool[Array, " I"],
    batch: Batch,
) -> Float[Array, ""]:
    """The ranking loss with projected features in place of the items' vectors."""
    both = present[batch.positives] & present[batch.negatives]
    difference = (features[batch.positives] - features[batch.negatives]) @ kernel
    return bpr_loss(users, jnp.where(both[:, None], difference, 0.0), jnp.zeros_like(difference))


@dataclass(frozen=True)
class Freedom(Trained):
    """FREEDOM behind the contract of `mmssl_jax/method.py`."""

    TITLE: ClassVar[str] = "FREEDOM"
    CONFIG: ClassVar[type[Config]] = FreedomConfig
    SPACE: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "optim.lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "freedom.layers": {"low": 1, "high": 3},
        "freedom.dropped": {"choices": [0.0, 0.5, 0.8, 0.9]},
        "freedom.feature_weight": {"low": 1e-5, "high": 1e-2, "log": True},
    }
    NEEDS_FEATURES: ClassVar[bool] = True

    def inputs(self, dataset: Dataset) -> Inputs:
        """Both graphs, and the features. Raises ConfigError for weights that do not fit."""
        settings, size = self.config.freedom, (dataset.n_users, dataset.n_items)
        weights = modality_weights(settings.modality_weights, dataset.modalities)
        neighbours = modality_neighbours(dataset, settings.k, True, self.config.data)
        rows = interaction_rows(dataset.train, *size)
        every = jnp.ones(rows.users.shape, bool)
        ends = Ends(rows.users, size[0]), Ends(rows.items, size[1])
        edges = edge_weights(*ends, every, "symmetric")
        return Inputs(
            rows=rows,
            graph=observed_graph(dataset.train, *size, "symmetric"),
            log_weights=jnp.log(edges),
            item_graph=neighbour_matrix(*mixed_neighbours(neighbours, weights)).to_rows,
            features=item_features(dataset),
            present=item_presence(dataset),
        )

    def parameters(self, key: Key[Array, ""], inputs: Inputs) -> Params:
        """Xavier-uniform embeddings and projections."""
        dim = self.config.freedom.dim
        tables_key, *keys = jax.random.split(key, 1 + len(inputs.features))
        projections = {
            modality: xavier_kernel(k, rows.shape[1], dim)
            for k, (modality, rows) in zip(keys, inputs.features.items(), strict=True)
        }
        users, items = xavier_tables(tables_key, (self.n_users, self.n_items), dim)
        return Params(users, items, projections)

    def carry(self, key: Key[Array, ""], params: Params, inputs: Inputs) -> Thinned:
        """A first thinned graph."""
        del params
        key, draw_key = jax.random.split(key)
        n_edges = inputs.log_weights.shape[0]
        n_kept = max(1, int((1 - self.config.freedom.dropped) * n_edges))
        kept = draw_edges(draw_key, inputs.log_weights, n_kept)
        users, items = inputs.rows.users[kept], inputs.rows.items[kept]
        size, every = (self.n_users, self.n_items), jnp.ones(n_kept, bool)
        ends = Ends(users, size[0]), Ends(items, size[1])
        return Thinned(key, bipartite_graph(*ends, every, "symmetric"))

    def start_epoch(self, state: Descent, inputs: Inputs) -> Descent:
        """Other edges for each epoch."""
        return state._replace(carried=self.carry(state.carried.key, state.params, inputs))

    def vectors(self, params: Params, graph: BipartiteGraph, inputs: Inputs) -> Vectors:
        """u and i, with the user-item edges of `graph`."""
        final = light_gcn(graph, params.users, params.items, self.config.freedom.layers)
        return Vectors(
            final.users, final.items + propagate(inputs.item_graph, params.items, self.n_items)
        )

    def loss(self, params: Params, step: Step, inputs: Inputs) -> tuple[Float[Array, ""], Metrics]:
        """The ranking loss on the thinned graph, and those on projected features."""
        triples = of_batch(self.vectors(params, step.carried.graph, inputs), step.batch)
        bpr = bpr_loss(*triples)
        of_features = sum(
            feature_bpr(triples[0], kernel, inputs.features[m], inputs.present[m], step.batch)
            for m, kernel in params.projections.items()
        )
        total = bpr + self.config.freedom.feature_weight * of_features
        return total, {"bpr": bpr, "feature_bpr": of_features, "loss": total}

    def embed(self, state: Descent, inputs: Inputs) -> Vectors:
        """The vectors over all interactions."""
        return self.vectors(state.params, inputs.graph, inputs)
