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

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt

from mmssl_jax.config import Config, DataConfig, OptimConfig, SamplingConfig, TrainConfig
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.bipartite import BipartiteGraph, observed_graph
from mmssl_jax.graph.item_graph import (
    Neighbours,
    item_features,
    item_presence,
    modality_neighbours,
    nearest_items,
    neighbour_matrix,
    symmetric_weights,
)
from mmssl_jax.graph.propagate import propagate
from mmssl_jax.graph.rows import InteractionRows, interaction_rows
from mmssl_jax.losses.bpr import bpr_loss, embedding_l2
from mmssl_jax.method import Metrics, Vectors
from mmssl_jax.methods.lightgcn import light_gcn, xavier_tables
from mmssl_jax.methods.linear import Linear, linear, new_linear
from mmssl_jax.methods.trained import Step, Trained
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
    raw_share: Annotated = 0.9
    """Share lambda of the raw features' graph; the rest is the learned one's."""
    regularization: NonNegativeFloat = 1e-4
    """Weight of half the squares of a batch's final vectors, per triple."""


@dataclass(frozen=True)
class LatticeConfig(Config):
    """All settings of LATTICE."""

    method: str = "lattice"
    """Method to train. Each has its own settings: --method NAME --help."""
    lattice: LatticeSettings = field(default_factory=LatticeSettings)
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(2048, "interaction", "trained")
    )
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr_decay=0.96))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(patience=20))


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


def cosine_weights(neighbours: Neighbours, cosine: Float[Array, "I K"]) -> Float[Array, "I K"]:
    """v_ij (d_i d_j)^-1/2 of the cosines above 0."""
    found = jnp.where(neighbours.found, jnp.maximum(cosine, 0.0), 0.0)
    return symmetric_weights(neighbours, found)


def neighbour_cosines(z: Float[Array, "I D"], items: Int[Array, "I K"]) -> Float[Array, "I K"]:
    """The cosine of each row and the rows of its neighbours, one neighbour of all at a time."""
    unit = unit_rows(z)
    cosine = jax.checkpoint(lambda column: jnp.sum(unit * unit[column], axis=1))
    return jax.lax.map(cosine, items.T).T


def neighbour_sum(
    x: Float[Array, "I D"], items: Int[Array, "I K"], weights: Float[Array, "I K"]
) -> Float[Array, "I D"]:
    """Sums over neighbours of w_ij x_j, which pass gradients on to x and w; one neighbour of all
    items at a time, since all at once are K times as much memory as x."""

    @jax.checkpoint
    def add(total: Array, column: tuple[Array, Array]) -> tuple[Array, None]:
        item, weight = column
        return total + weight[:, None] * x[item], None

    return jax.lax.scan(add, jnp.zeros_like(x), (items.T, weights.T))[0]


def exchanged(
    features: dict[str, Float[Array, "I _F"]], present: dict[str, Bool[Array, " I"]], seed: int
) -> dict[str, Float[Array, "I _F"]]:
    """Each item's features are those of another that has the modality, drawn at random."""
    mixed = {}
    for number, (modality, rows) in enumerate(features.items()):
        holders, rng = np.flatnonzero(present[modality]), np.random.default_rng((seed, number))
        mixed[modality] = rows.at[holders].set(rows[rng.permutation(holders)])
    return mixed
