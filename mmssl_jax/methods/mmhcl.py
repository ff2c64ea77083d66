"""MMHCL: Guo et al., "Multi-Modal Hypergraph Contrastive Learning for Recommendation", 2025.

Users and items have a second embedding P each, which is propagated over another graph than the
interactions: q_U over users who share items, q_I over items of like features (methods/views.py).

    q_U = W^a P_U,      q_I = (D^-1/2 H H' D^-1/2)^b P_I,      v, c = LightGCN(E_U, E_I)
    u = v + q_U / |q_U|,      i = c + q_I / |q_I|,                  score of u and i: u . i
    loss = BPR(u, i) + regularization * (|u|^2 + |i|^2 + |j|^2) / 2, a mean over triples
           + c_U CL(u, q_U) + c_I CL(i, q_I)

CL contrasts all nodes, or a uniform sample of them: with f(x, y) = exp(cosine / t),

    CL(z, q) = mean over n of -log f(z_n, q_n) / (sum_k f(z_n, q_k) + sum_(k != n) f(z_n, z_k))
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
from jaxtyping import Array, Float, Key
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from mmssl_jax.config import Config, OptimConfig, SamplingConfig, TrainConfig
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.bipartite import BipartiteGraph, observed_graph
from mmssl_jax.graph.item_graph import modality_neighbours
from mmssl_jax.graph.rows import InteractionRows, interaction_rows
from mmssl_jax.graph.sparse import SparseMatrix
from mmssl_jax.losses.bpr import bpr_loss, embedding_l2
from mmssl_jax.losses.contrastive import contrast_of_all
from mmssl_jax.method import Metrics, Vectors
from mmssl_jax.methods.lightgcn import light_gcn, xavier_tables
from mmssl_jax.methods.trained import Step, Trained, of_batch
from mmssl_jax.methods.views import (
    CoUsers,
    co_users,
    content_hypergraph,
    view_of_items,
    view_of_users,
)
from mmssl_jax.norms import unit_rows
from mmssl_jax.optimizers import Descent
from mmssl_jax.sampling import distinct_places


@dataclass(frozen=True)
class MMHCLSettings:
    """Embeddings, the two views, regularisation and contrast."""

    dim: PositiveInt = 64
    """Width of every embedding."""
    layers: NonNegativeInt = 2
    """Propagation rounds over the user-item graph."""
    k: PositiveInt = 5
    """Nearest items of each item per modality, itself included, which make a hyperedge."""
    user_hops: PositiveInt = 3
    """Hops a among users who share items."""
    item_hops: PositiveInt = 2
    """Hops b among items that share hyperedges."""
    regularization: NonNegativeFloat = 1e-3
    """Weight of half the squares of a batch's final vectors, per triple."""
    user_contrast: NonNegativeFloat = 0.03
    """Weight c_U of the users' contrast."""
    item_contrast: NonNegativeFloat = 0.07
    """Weight c_I of the items' contrast."""
    temperature: PositiveFloat = 0.6
    """Temperature t of both."""
    contrast_nodes: NonNegativeInt = 512
    """Users, and as many items, that a step contrasts, drawn uniformly; 0 for all, as published,
    which takes nearly all of the time."""


@dataclass(frozen=True)
class MMHCLConfig(Config):
    """All settings of MMHCL."""

    method: str = "mmhcl"
    """Method to train. Each has its own settings: --method NAME --help."""
    mmhcl: MMHCLSettings = field(default_factory=MMHCLSettings)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-4, lr_decay=0.96))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(patience=20))


class Inputs(NamedTuple):
    """The interactions as a graph, by user, and as the users' view walks them; D^-1/2 H."""

    graph: BipartiteGraph
    rows: InteractionRows
    co_users: CoUsers
    content: SparseMatrix


class Params(NamedTuple):
    """E and P of users and items."""

    users: Float[Array, "U D"]
    items: Float[Array, "I D"]
    view_users: Float[Array, "U D"]
    view_items: Float[Array, "I D"]


@dataclass(frozen=True)
class MMHCL(Trained):
    """MMHCL behind the contract of `mmssl_jax/method.py`."""

    TITLE: ClassVar[str] = "MMHCL"
    CONFIG: ClassVar[type[Config]] = MMHCLConfig
    SPACE: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "optim.lr": {"low": 1e-4, "high": 3e-3, "log": True},
        "mmhcl.user_contrast": {"low": 1e-2, "high": 0.3, "log": True},
        "mmhcl.item_contrast": {"low": 1e-2, "high": 0.3, "log": True},
        "mmhcl.regularization": {"low": 1e-4, "high": 1e-1, "log": True},
    }
    NEEDS_FEATURES: ClassVar[bool] = True

    def inputs(self, dataset: Dataset) -> Inputs:
        """The interactions, and the hypergraph of the features."""
        size = dataset.n_users, dataset.n_items
        neighbours = modality_neighbours(dataset, self.config.mmhcl.k, True, self.config.data)
        return Inputs(
            observed_graph(dataset.train, *size, "symmetric"),
            interaction_rows(dataset.train, *size),
            co_users(dataset.train, *size),
            content_hypergraph(neighbours),
        )

    def parameters(self, key: Key[Array, ""], inputs: Inputs) -> Params:
        """Xavier-uniform embeddings."""
        heights = (self.n_users, self.n_items) * 2
        return Params(*xavier_tables(key, heights, self.config.mmhcl.dim))

    def vectors_and_views(self, params: Params, inputs: Inputs) -> tuple[Vectors, Vectors]:
        """u and i; q_U and q_I."""
        settings = self.config.mmhcl
        base = light_gcn(inputs.graph, params.users, params.items, settings.layers)
        # An item names k others by each modality, and has a hyperedge by each.
        n_named = inputs.content.to_rows.edges.shape[0]
        n_hyperedges = n_named // min(settings.k, self.n_items)
        of_users = view_of_users(
            inputs.co_users, params.view_users, self.n_items, settings.user_hops
        )
        of_items = view_of_items(
            inputs.content, params.view_items, n_hyperedges, settings.item_hops
        )
        vectors = Vectors(base.users + unit_rows(of_users), base.items + unit_rows(of_items))
        return vectors, Vectors(of_users, of_items)

    def contrast(
        self, key: Key[Array, ""], vectors: Float[Array, "N D"], views: Float[Array, "N D"]
    ) -> Float[Array, ""]:
        """CL(z, q), over the nodes that the settings ask for."""
        settings, n = self.config.mmhcl, vectors.shape[0]
        if 0 < settings.contrast_nodes < n:
            nodes = distinct_places(key, n, settings.contrast_nodes)
            vectors, views = vectors[nodes], views[nodes]
        return contrast_of_all(vectors, views, settings.temperature, self.axis)

    def loss(self, params: Params, step: Step, inputs: Inputs) -> tuple[Float[Array, ""], Metrics]:
        """The ranking loss, the squares of the batch's final vectors, and the contrasts."""
        settings = self.config.mmhcl
        final, views = self.vectors_and_views(params, inputs)
        triples = of_batch(final, step.batch)
        bpr = bpr_loss(*triples)
        total = bpr + settings.regularization * embedding_l2(*triples)
        user_key, item_key = jax.random.split(step.key)
        metrics = {"bpr": bpr}
        if settings.user_contrast:
            metrics["user_contrast"] = self.contrast(user_key, final.users, views.users)
            total += settings.user_contrast * metrics["user_contrast"]
        if settings.item_contrast:
            metrics["item_contrast"] = self.contrast(item_key, final.items, views.items)
            total += settings.item_contrast * metrics["item_contrast"]
        return total, metrics | {"loss": total}

    def embed(self, state: Descent, inputs: Inputs) -> Vectors:
        """The final vectors."""
        return self.vectors_and_views(state.params, inputs)[0]
