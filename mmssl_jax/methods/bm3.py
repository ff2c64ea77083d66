"""BM3: Zhou et al., "Bootstrap Latent Representations for Multi-modal Recommendation", WWW 2023
(arXiv 2207.05969).

ID embeddings go through LightGCN, to which items add their first embedding once more; the features
of each modality m and all else that is compared go through one linear layer each:

    h_u = LGCN_L(u)    h_i = LGCN_L(i) + e_i^(0)    h_im = W_m' f_im + c_m    p(h) = P' h + c
    t = dropout(h), without gradient: the target of h
    rank = mean over (u, i) of [1 - cos(p(h_u), t_i)] + [1 - cos(p(h_i), t_u)]
    align = sum_m mean over i of [1 - cos(p(h_im), t_i)]     between the modality and the ID
    mask = sum_m mean over i of [1 - cos(p(h_im), t_im)]     within the modality
    loss = rank + alignment (align + mask) + regularization (|H_U| + |H_I|) / I
    score of u and i: p(h_u) . p(h_i)

u and i are a batch's users and positive items; there are no negatives. The means of a modality are
over the items that have it, 0 where none of the batch does. H_U and H_I are the h of all users and
all I items, and |H| is the square root of the sum of squares: weights of the loss are those of
public benchmarks, where the paper has none for its parts, and squares. Features are constants, as
in the paper; benchmarks let them learn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt

from mmssl_jax.config import Config, Fraction
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.bipartite import BipartiteGraph, observed_graph
from mmssl_jax.graph.item_graph import item_features, item_presence
from mmssl_jax.graph.rows import InteractionRows, interaction_rows
from mmssl_jax.losses.bpr import frobenius_norm
from mmssl_jax.losses.cosine import cosine_distance, mean_of_present
from mmssl_jax.method import Metrics, Vectors
from mmssl_jax.methods.lightgcn import light_gcn, xavier_tables
from mmssl_jax.methods.linear import Linear, linear, new_linear
from mmssl_jax.methods.trained import BenchmarkConfig, Step, Trained
from mmssl_jax.optimizers import Descent


@dataclass(frozen=True)
class BM3Settings:
    """Embeddings, propagation, targets and the weights of the loss."""

    dim: PositiveInt = 64
    """Width of every embedding, and of projected features."""
    layers: NonNegativeInt = 1
    """Propagation rounds L."""
    dropout: Fraction = 0.5
    """Share of a target's entries that are set to 0."""
    alignment: NonNegativeFloat = 2.0
    """Weight of the losses that bring modalities together."""
    regularization: NonNegativeFloat = 0.1
    """Weight of the norms of all users and all items, per item."""


@dataclass(frozen=True)
class BM3Config(BenchmarkConfig):
    """All settings of BM3."""

    method: str = "bm3"
    """Method to train. Each has its own settings: --method NAME --help."""
    bm3: BM3Settings = field(default_factory=BM3Settings)


class Inputs(NamedTuple):
    """The graph and rows of the training interactions, features, and who has them."""

    graph: BipartiteGraph
    rows: InteractionRows
    features: dict[str, Float[Array, "I _F"]]
    present: dict[str, Bool[Array, " I"]]


class Params(NamedTuple):
    """ID embeddings, a projection of each modality, and the predictor p."""

    users: Float[Array, "U D"]
    items: Float[Array, "I D"]
    projections: dict[str, Linear]
    predictor: Linear


def hidden(graph: BipartiteGraph, params: Params, layers: int) -> Vectors:
    """h of all users and items."""
    users, items = light_gcn(graph, params.users, params.items, layers)
    return Vectors(users, items + params.items)


def targets(
    key: Key[Array, ""], n_nodes: int, nodes: Int[Array, " B"], h: Float[Array, "B D"], rate: float
) -> Float[Array, "B D"]:
    """Dropout of the batch's rows `h`, without gradient.

    The mask is drawn for all nodes, so that a node has the same one wherever it stands in a batch,
    and on whichever device. What is left is not scaled up: targets are compared by cosine.
    """
    kept = jax.random.bernoulli(key, 1.0 - rate, (n_nodes, h.shape[1]))[nodes]
    return jax.lax.stop_gradient(jnp.where(kept, h, 0.0))


@dataclass(frozen=True)
class BM3(Trained):
    """BM3 behind the contract of `mmssl_jax/method.py`."""

    TITLE: ClassVar[str] = "BM3"
    CONFIG: ClassVar[type[Config]] = BM3Config
    SPACE: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "optim.lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "bm3.layers": {"low": 1, "high": 2},
        "bm3.dropout": {"choices": [0.3, 0.5]},
        "bm3.regularization": {"low": 1e-2, "high": 1.0, "log": True},
    }
    WATCHED: ClassVar[tuple[str, ...]] = ("rank", "align", "mask", "loss")
    NEEDS_FEATURES: ClassVar[bool] = True

    def inputs(self, dataset: Dataset) -> Inputs:
        """The symmetrically normalised graph, the interactions by user, and the features."""
        size = dataset.n_users, dataset.n_items
        return Inputs(
            observed_graph(dataset.train, *size, "symmetric"),
            interaction_rows(dataset.train, *size),
            item_features(dataset),
            item_presence(dataset),
        )

    def parameters(self, key: Key[Array, ""], inputs: Inputs) -> Params:
        """Xavier's embeddings and layers."""
        dim, features = self.config.bm3.dim, inputs.features
        table_key, *keys = jax.random.split(key, len(features) + 2)
        users, items = xavier_tables(table_key, (self.n_users, self.n_items), dim)
        projections = {
            m: new_linear(k, x.shape[1], dim)
            for k, (m, x) in zip(keys, features.items(), strict=False)
        }
        return Params(users, items, projections, new_linear(keys[-1], dim, dim))

    def loss(self, params: Params, step: Step, inputs: Inputs) -> tuple[Float[Array, ""], Metrics]:
        """The distances of predictions to targets, and the norms of all users and items."""
        settings, users, items = self.config.bm3, step.batch.users, step.batch.positives
        all_users, all_items = hidden(inputs.graph, params, settings.layers)
        of_users, of_items = all_users[users], all_items[items]
        user_key, item_key, *keys = jax.random.split(step.key, len(inputs.features) + 2)
        rate, n_items = settings.dropout, self.n_items
        user_targets = targets(user_key, self.n_users, users, of_users, rate)
        item_targets = targets(item_key, n_items, items, of_items, rate)
        rank = jnp.mean(cosine_distance(linear(params.predictor, of_users), item_targets))
        rank = rank + jnp.mean(cosine_distance(linear(params.predictor, of_items), user_targets))
        align, mask = jnp.zeros(()), jnp.zeros(())
        for key, (m, features) in zip(keys, inputs.features.items(), strict=True):
            projected = linear(params.projections[m], features[items])
            predicted = linear(params.predictor, projected)
            own_targets = targets(key, n_items, items, projected, rate)
            to_id, to_own = (
                cosine_distance(predicted, item_targets),
                cosine_distance(predicted, own_targets),
            )
            present = inputs.present[m][items]
            align = align + mean_of_present(to_id, present, self.axis)
            mask = mask + mean_of_present(to_own, present, self.axis)
        norms = (frobenius_norm(all_users) + frobenius_norm(all_items)) / n_items
        total = rank + settings.alignment * (align + mask) + settings.regularization * norms
        return total, {"rank": rank, "align": align, "mask": mask, "loss": total}

    def embed(self, state: Descent, inputs: Inputs) -> Vectors:
        """The predictions of all users and items."""
        params = state.params
        h = hidden(inputs.graph, params, self.config.bm3.layers)
        return Vectors(*(linear(params.predictor, side) for side in h))
