"""MGCN: Yu et al., "Multi-View Graph Convolutional Network for Multimedia Recommendation", ACM MM
2023 (arXiv 2308.03588).

Projected features are purified by a gate on the ID embeddings, and propagated over items of like
features and on to users. With f_m the raw features of modality m, s the sigmoid, and S_m the k
nearest items by cosine, each itself among them, weighing v_ij (d_i d_j)^-1/2 with v the cosine, 0
if it is negative, and d the sums of its rows:

    g_m = E_I * s(G_m(W_m f_m)),      h_m = S_m^n g_m,      of users (d_u d_i)^-1/2-weighted sums
    c = LightGCN(E_U, E_I)
    a_m = softmax over m of q . tanh(Q h_m),      common = sum over m of a_m h_m
    side = (common + sum over m of s(K_m c) * (h_m - common)) / (M + 1)
    u, i = c + side,                                                 score of u and i: u . i
    loss = BPR(u, i) + regularization * (|u|^2 + |i|^2 + |j|^2) / 2, a mean over triples
           + contrast * (InfoNCE(side_i, c_i) + InfoNCE(side_u, c_u))

W, G, K and Q have biases. InfoNCE is over the distinct users and the distinct positive items of a
batch; the published code counts repeated ones as negatives of themselves. A node that lacks a
modality has neither its a_m nor its h_m - common, and M is the number that it has; an item has a
modality if it has features, a user if an item of theirs has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Bool, Float, Key
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from mmssl_jax.config import Config, OptimConfig
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.bipartite import BipartiteGraph, observed_graph
from mmssl_jax.graph.item_graph import (
    cosine_weights,
    item_features,
    modality_neighbours,
    neighbour_matrix,
)
from mmssl_jax.graph.propagate import propagate
from mmssl_jax.graph.rows import InteractionRows, interaction_rows
from mmssl_jax.losses.bpr import bpr_loss, embedding_l2
from mmssl_jax.losses.info_nce import info_nce
from mmssl_jax.method import Metrics, Vectors
from mmssl_jax.methods.lightgcn import light_gcn, xavier_tables
from mmssl_jax.methods.linear import Linear, linear, new_linear, new_linears, xavier_kernel
from mmssl_jax.methods.trained import BenchmarkConfig, Step, Trained, of_batch
from mmssl_jax.optimizers import Descent


@dataclass(frozen=True)
class MGCNSettings:
    """Embeddings, the graphs, regularisation and contrast."""

    dim: PositiveInt = 64
    """Width of every embedding, and of projected features."""
    layers: NonNegativeInt = 2
    """Propagation rounds over the user-item graph."""
    item_layers: PositiveInt = 1
    """Propagation rounds n over the graph of each modality."""
    k: PositiveInt = 10
    """Nearest items of each item per modality, itself included."""
    regularization: NonNegativeFloat = 1e-4
    """Weight of half the squares of a batch's final vectors, per triple."""
    contrast: NonNegativeFloat = 1e-2
    """Weight of the contrast between a node's side and LightGCN vectors."""
    temperature: PositiveFloat = 0.2
    """Temperature of the contrast."""


@dataclass(frozen=True)
class MGCNConfig(BenchmarkConfig):
    """All settings of MGCN."""

    method: str = "mgcn"
    """Method to train. Each has its own settings: --method NAME --help."""
    mgcn: MGCNSettings = field(default_factory=MGCNSettings)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr_decay=0.96))


ByModality = dict[str, Array]


class Inputs(NamedTuple):
    """The user-item graph, and of each modality the raw features [I, F], S_m, and who has it."""

    graph: BipartiteGraph
    rows: InteractionRows
    features: ByModality
    item_graphs: dict[str, jraph.GraphsTuple]
    users_have: ByModality
    items_have: ByModality


class Params(NamedTuple):
    """ID embeddings; W, G and K of each modality; Q and q."""

    users: Float[Array, "U D"]
    items: Float[Array, "I D"]
    projections: dict[str, Linear]
    gates: dict[str, Linear]
    preferences: dict[str, Linear]
    attention: Linear
    query: Float[Array, " D"]


def have_by_items(edges: np.ndarray, n_users: int, has: Bool[Array, " I"]) -> Bool[Array, " U"]:
    """Which users have a training item that has something."""
    return jnp.asarray(np.bincount(edges[:, 0], np.asarray(has)[edges[:, 1]], n_users) > 0)


def side_vectors(
    params: Params,
    of_modality: Mapping[str, Float[Array, "N D"]],
    base: Float[Array, "N D"],
    has: Mapping[str, Bool[Array, " N"]],
) -> Float[Array, "N D"]:
    """side, from h_m and c."""
    logits = {
        m: jnp.where(has[m], jnp.tanh(linear(params.attention, h)) @ params.query, -1e9)
        for m, h in of_modality.items()
    }
    shares = jax.nn.softmax(jnp.stack(list(logits.values())), axis=0)
    common = sum(a[:, None] * h for a, h in zip(shares, of_modality.values(), strict=True))
    total, parts = common, jnp.ones(base.shape[0], base.dtype)
    for m, h in of_modality.items():
        preferred = jax.nn.sigmoid(linear(params.preferences[m], base)) * (h - common)
        total += jnp.where(has[m][:, None], preferred, 0.0)
        parts += has[m]
    return total / parts[:, None]


def summed(base: Vectors, side: Vectors) -> Vectors:
    """u and i."""
    return Vectors(base.users + side.users, base.items + side.items)


@dataclass(frozen=True)
class MGCN(Trained):
    """MGCN behind the contract of `mmssl_jax/method.py`."""

    TITLE: ClassVar[str] = "MGCN"
    CONFIG: ClassVar[type[Config]] = MGCNConfig
    SPACE: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "optim.lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "mgcn.layers": {"low": 1, "high": 3},
        "mgcn.contrast": {"low": 1e-3, "high": 1e-1, "log": True},
        "mgcn.regularization": {"low": 1e-5, "high": 1e-2, "log": True},
    }
    NEEDS_FEATURES: ClassVar[bool] = True

    def inputs(self, dataset: Dataset) -> Inputs:
        """The graphs, the features, and who has them."""
        size = dataset.n_users, dataset.n_items
        neighbours = modality_neighbours(dataset, self.config.mgcn.k, True, self.config.data)
        items_have = {m: jnp.any(near.found, axis=1) for m, near in neighbours.items()}
        return Inputs(
            graph=observed_graph(dataset.train, *size, "symmetric"),
            rows=interaction_rows(dataset.train, *size),
            features=item_features(dataset),
            item_graphs={
                m: neighbour_matrix(near, cosine_weights(near, near.cosine)).to_rows
                for m, near in neighbours.items()
            },
            users_have={m: have_by_items(dataset.train, size[0], h) for m, h in items_have.items()},
            items_have=items_have,
        )

    def parameters(self, key: Key[Array, ""], inputs: Inputs) -> Params:
        """Xavier-uniform embeddings and layers."""
        dim, features = self.config.mgcn.dim, inputs.features
        keys = jax.random.split(key, 6)
        square = dict.fromkeys(features, dim)
        users, items = xavier_tables(keys[0], (self.n_users, self.n_items), dim)
        return Params(
            users,
            items,
            new_linears(keys[1], {m: x.shape[1] for m, x in features.items()}, dim),
            new_linears(keys[2], square, dim),
            new_linears(keys[3], square, dim),
            new_linear(keys[4], dim, dim),
            xavier_kernel(keys[5], dim, 1)[:, 0],
        )

    def parts(self, params: Params, inputs: Inputs) -> tuple[Vectors, Vectors]:
        """c and side."""
        settings, graph = self.config.mgcn, inputs.graph
        of_items, of_users = {}, {}
        for m, rows in inputs.features.items():
            gate = linear(params.gates[m], linear(params.projections[m], rows))
            h = params.items * jax.nn.sigmoid(gate)
            for _ in range(settings.item_layers):
                h = propagate(inputs.item_graphs[m], h, self.n_items)
            of_items[m], of_users[m] = h, propagate(graph.to_users, h, self.n_users)
        base = light_gcn(graph, params.users, params.items, settings.layers)
        users = side_vectors(params, of_users, base.users, inputs.users_have)
        items = side_vectors(params, of_items, base.items, inputs.items_have)
        return base, Vectors(users, items)

    def loss(self, params: Params, step: Step, inputs: Inputs) -> tuple[Float[Array, ""], Metrics]:
        """The ranking loss, the squares of the batch's final vectors, and the contrast."""
        settings, batch = self.config.mgcn, step.batch
        base, side = self.parts(params, inputs)
        triples = of_batch(summed(base, side), batch)
        bpr = bpr_loss(*triples)
        contrast = sum(
            info_nce(z[nodes], c[nodes], nodes, settings.temperature, self.axis)
            for z, c, nodes in zip(side, base, (batch.users, batch.positives), strict=True)
        )
        total = bpr + settings.regularization * embedding_l2(*triples)
        total += settings.contrast * contrast
        return total, {"bpr": bpr, "contrast": contrast, "loss": total}

    def embed(self, state: Descent, inputs: Inputs) -> Vectors:
        """The sums of both parts."""
        return summed(*self.parts(state.params, inputs))
