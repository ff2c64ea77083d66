"""LATTICE: Zhang et al., "Mining Latent Structures for Multimedia Recommendation", ACM MM 2021
(arXiv 2104.09036).

Each modality m has two item graphs, of its raw features f_m and of learned ones,
z_m = W_m f_m + b_m. In both, the k nearest of an item by cosine, itself among them, weigh their
cosine, 0 if it is negative, normalised by the sums d of the rows to v_ij (d_i d_j)^-1/2:

    A = sum over m of a_m (lambda G(f_m) + (1 - lambda) G(z_m)),      a = softmax of one number each
    h = A^n E_I,      u, c = LightGCN(E_U, E_I),      i = c + h / |h|,      score of u and i: u . i
    loss = BPR(u, i) + regularization * (|u|^2 + |i|^2 + |j|^2) / 2, a mean over triples

The published code builds G(z_m) once per epoch, in whose first batch alone W_m learns. Here the
nearest by z_m are looked for once per epoch as well, but their weights are computed anew, and pass
gradients on, in every step. With `data.neighbours` random, z_m is of the features of other items,
so that neither graph knows what an item is. An item that lacks a modality has no neighbours in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Bool, Float, Key
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt

from mmssl_jax.config import Config, OptimConfig, UpToOne
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.bipartite import BipartiteGraph, observed_graph
from mmssl_jax.graph.item_graph import (
    Neighbours,
    cosine_weights,
    item_features,
    item_presence,
    modality_neighbours,
    nearest_items,
    neighbour_matrix,
)
from mmssl_jax.graph.neighbour_sums import neighbour_cosines, neighbour_sums
from mmssl_jax.graph.propagate import propagate
from mmssl_jax.graph.rows import InteractionRows, interaction_rows
from mmssl_jax.losses.bpr import bpr_loss, embedding_l2
from mmssl_jax.method import Metrics, Vectors
from mmssl_jax.methods.lightgcn import light_gcn, xavier_tables
from mmssl_jax.methods.linear import Linear, linear, new_linears
from mmssl_jax.methods.trained import BenchmarkConfig, Step, Trained, of_batch
from mmssl_jax.norms import unit_rows
from mmssl_jax.optimizers import Descent


@dataclass(frozen=True)
class LatticeSettings:
    """Embeddings, the item graphs and regularisation."""

    dim: PositiveInt = 64
    """Width of every embedding, and of projected features."""
    layers: NonNegativeInt = 2
    """Propagation rounds over the user-item graph."""
    item_layers: NonNegativeInt = 1
    """Propagation rounds n over the item graph."""
    k: PositiveInt = 10
    """Nearest items of each item in each graph, itself included."""
    raw_share: UpToOne = 0.9
    """Share lambda of the raw features' graph; the rest is the learned one's."""
    regularization: NonNegativeFloat = 1e-4
    """Weight of half the squares of a batch's final vectors, per triple."""


@dataclass(frozen=True)
class LatticeConfig(BenchmarkConfig):
    """All settings of LATTICE."""

    method: str = "lattice"
    """Method to train. Each has its own settings: --method NAME --help."""
    lattice: LatticeSettings = field(default_factory=LatticeSettings)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr_decay=0.96))


class Inputs(NamedTuple):
    """The user-item graph, the raw features, and G(f_m) of each modality."""

    graph: BipartiteGraph
    rows: InteractionRows
    features: dict[str, Float[Array, "I _F"]]
    present: dict[str, Bool[Array, " I"]]
    item_graphs: dict[str, jraph.GraphsTuple]


class Params(NamedTuple):
    """ID embeddings, W_m and b_m, and what a is the softmax of."""

    users: Float[Array, "U D"]
    items: Float[Array, "I D"]
    projections: dict[str, Linear]
    mixture: dict[str, Float[Array, ""]]


def exchanged(
    features: dict[str, Float[Array, "I _F"]], present: dict[str, Bool[Array, " I"]], seed: int
) -> dict[str, Float[Array, "I _F"]]:
    """Each item's features are those of another that has the modality, drawn at random."""
    mixed = {}
    for number, (modality, rows) in enumerate(features.items()):
        holders, rng = np.flatnonzero(present[modality]), np.random.default_rng((seed, number))
        mixed[modality] = rows.at[holders].set(rows[rng.permutation(holders)])
    return mixed


@dataclass(frozen=True)
class Lattice(Trained):
    """LATTICE behind the contract of `mmssl_jax/method.py`."""

    TITLE: ClassVar[str] = "LATTICE"
    CONFIG: ClassVar[type[Config]] = LatticeConfig
    SPACE: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "optim.lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "lattice.layers": {"low": 1, "high": 3},
        "lattice.raw_share": {"low": 0.5, "high": 1.0},
        "lattice.regularization": {"low": 1e-5, "high": 1e-2, "log": True},
    }
    NEEDS_FEATURES: ClassVar[bool] = True

    def inputs(self, dataset: Dataset) -> Inputs:
        """The user-item graph, the features, and the item graphs of these."""
        data, size = self.config.data, (dataset.n_users, dataset.n_items)
        neighbours = modality_neighbours(dataset, self.config.lattice.k, True, data)
        features, present = item_features(dataset), item_presence(dataset)
        if data.neighbours == "random":
            features = exchanged(features, present, data.seed)
        return Inputs(
            observed_graph(dataset.train, *size, "symmetric"),
            interaction_rows(dataset.train, *size),
            features,
            present,
            {
                m: neighbour_matrix(n, cosine_weights(n, n.cosine)).to_rows
                for m, n in neighbours.items()
            },
        )

    def parameters(self, key: Key[Array, ""], inputs: Inputs) -> Params:
        """Xavier-uniform embeddings and projections; all modalities weigh alike."""
        dim, features = self.config.lattice.dim, inputs.features
        tables_key, layers_key = jax.random.split(key)
        users, items = xavier_tables(tables_key, (self.n_users, self.n_items), dim)
        projections = new_linears(layers_key, {m: x.shape[1] for m, x in features.items()}, dim)
        return Params(users, items, projections, {m: jnp.zeros(()) for m in features})

    def projected(self, params: Params, inputs: Inputs) -> dict[str, Float[Array, "I D"]]:
        """z_m, 0 for an item that lacks the modality."""
        return {
            m: jnp.where(inputs.present[m][:, None], linear(params.projections[m], rows), 0.0)
            for m, rows in inputs.features.items()
        }

    def nearest(self, params: Params, inputs: Inputs) -> dict[str, Neighbours]:
        """The nearest items by z_m."""
        z = self.projected(params, inputs)
        return {m: nearest_items(rows, self.config.lattice.k, True) for m, rows in z.items()}

    def carry(self, key: Key[Array, ""], params: Params, inputs: Inputs) -> dict[str, Neighbours]:
        """The nearest by the first projections."""
        del key
        return self.nearest(params, inputs)

    def start_epoch(self, state: Descent, inputs: Inputs) -> Descent:
        """Looks for the nearest anew."""
        return state._replace(carried=self.nearest(state.params, inputs))

    def vectors(self, params: Params, nearest: dict[str, Neighbours], inputs: Inputs) -> Vectors:
        """u and i, with `nearest` by z_m."""
        settings, z = self.config.lattice, self.projected(params, inputs)
        learned = {
            m: cosine_weights(near, neighbour_cosines(z[m], near.items))
            for m, near in nearest.items()
        }
        shares = jax.nn.softmax(jnp.stack([params.mixture[m] for m in nearest]))
        alike = params.items
        for _ in range(settings.item_layers):
            raw = [propagate(inputs.item_graphs[m], alike, self.n_items) for m in nearest]
            new = [neighbour_sums(alike, near.items, learned[m]) for m, near in nearest.items()]
            lam = settings.raw_share
            alike = sum(
                share * (lam * of_raw + (1 - lam) * of_new)
                for share, of_raw, of_new in zip(shares, raw, new, strict=True)
            )
        final = light_gcn(inputs.graph, params.users, params.items, settings.layers)
        return Vectors(final.users, final.items + unit_rows(alike))

    def loss(self, params: Params, step: Step, inputs: Inputs) -> tuple[Float[Array, ""], Metrics]:
        """The ranking loss and the squares of the batch's final vectors."""
        triples = of_batch(self.vectors(params, step.carried, inputs), step.batch)
        bpr = bpr_loss(*triples)
        total = bpr + self.config.lattice.regularization * embedding_l2(*triples)
        return total, {"bpr": bpr, "loss": total}

    def embed(self, state: Descent, inputs: Inputs) -> Vectors:
        """The vectors with the epoch's neighbours."""
        return self.vectors(state.params, state.carried, inputs)
