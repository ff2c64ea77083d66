"""The recommender (the game's generator): from raw features and graphs to embeddings."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.config import ModelConfig
from mmssl_jax.graph.bipartite import BipartiteGraph
from mmssl_jax.graph.propagate import propagate
from mmssl_jax.model.encoders import FeatureEncoder, PartialModality, propagate_features
from mmssl_jax.model.fusion import CrossModalAttention
from mmssl_jax.model.norms import unit_rows


class ObservedGraphs(NamedTuple):
    """The training interactions as the graph that features, and that ID embeddings, flow over.

    `partial` has the modalities that some items lack, whose features flow to users differently.
    """

    features: BipartiteGraph
    ids: BipartiteGraph
    partial: dict[str, PartialModality] = {}  # noqa: RUF012 (a pytree, which nobody changes)


class Embeddings(NamedTuple):
    """Everything the losses and the ranking need; dicts are keyed by modality."""

    user: Float[Array, "U D"]
    item: Float[Array, "I D"]
    feature_user: dict[str, Float[Array, "U D"]]
    feature_item: dict[str, Float[Array, "I D"]]
    id_user: dict[str, Float[Array, "U D"]]
    id_item: dict[str, Float[Array, "I D"]]
    modality_weight_user: Float[Array, "M U"]
    modality_weight_item: Float[Array, "M I"]


def id_layers(
    graph: BipartiteGraph,
    users: Float[Array, "U D"],
    items: Float[Array, "I D"],
    config: ModelConfig,
) -> list[tuple[Float[Array, "U D"], Float[Array, "I D"]]]:
    """Users and items before the first and after each round of propagation over the graph."""
    n_users, n_items = users.shape[0], items.shape[0]
    layers = [(users, items)]
    for layer in range(config.gnn_layers):
        activation = round_activation(layer, config)
        new_users = activation(propagate(graph.to_users, items, n_users))
        source = new_users if config.propagation_order == "users_first" else users
        users, items = new_users, activation(propagate(graph.to_items, source, n_items))
        layers.append((users, items))
    return layers


def round_activation(layer: int, config: ModelConfig) -> Callable[[Array], Array]:
    """What follows a round: nothing, or a softmax over the channels of the last one."""
    softened = config.last_layer_softmax and layer == config.gnn_layers - 1
    return jax.nn.softmax if softened else lambda x: x


def propagate_ids(
    graph: BipartiteGraph,
    users: Float[Array, "U D"],
    items: Float[Array, "I D"],
    config: ModelConfig,
) -> tuple[Float[Array, "U D"], Float[Array, "I D"]]:
    """Light GCN: rounds of propagation over the observed graph, then the mean over all layers."""
    of_users, of_items = zip(*id_layers(graph, users, items, config), strict=True)
    n_layers = config.gnn_layers + 1
    return functools.reduce(jnp.add, of_users) / n_layers, functools.reduce(
        jnp.add, of_items
    ) / n_layers


class MMSSL(nn.Module):
    """The whole generator; `config.dim` is D, modalities are the keys of `features`."""

    n_users: int
    n_items: int
    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        features: dict[str, Float[Array, "I _F"]],
        observed: ObservedGraphs,
        learned: dict[str, BipartiteGraph],
        deterministic: bool,
    ) -> Embeddings:
        """Args:
        features: raw item features per modality.
        observed: graphs of the training interactions.
        learned: the modality-aware user-item graph of each modality.
        deterministic: no dropout; otherwise an rng named `dropout` is needed.
        """
        config = self.config
        initializer = nn.initializers.xavier_uniform()
        user_ids = self.param("user_embedding", initializer, (self.n_users, config.dim))
        item_ids = self.param("item_embedding", initializer, (self.n_items, config.dim))

        with jax.named_scope("encoders"):
            encoder = FeatureEncoder(config.dim, config.dropout, name="encoder")
            encoded = encoder(features, deterministic, observed.partial)
            feature_user, feature_item = propagate_features(
                observed.features, encoded, self.n_users, observed.partial
            )

        with jax.named_scope("learned_graphs"):
            id_user = {m: propagate(g.to_users, item_ids, self.n_users) for m, g in learned.items()}
            id_item = {m: propagate(g.to_items, user_ids, self.n_items) for m, g in learned.items()}

        with jax.named_scope("attention"):
            attention = CrossModalAttention(
                config.dim, config.heads, config.attention_values, name="attention"
            )
            fused_user, weight_user = attention(list(id_user.values()), unit=True)
            fused_item, weight_item = attention(list(id_item.values()), unit=True)

        with jax.named_scope("light_gcn"):
            user, item = propagate_ids(
                observed.ids,
                user_ids + config.id_fusion * fused_user,
                item_ids + config.id_fusion * fused_item,
                config,
            )

        with jax.named_scope("fusion"):
            unit_user = sum(unit_rows(x) for x in feature_user.values())
            unit_item = sum(unit_rows(x) for x in feature_item.values())
            return Embeddings(
                user=user + config.feature_fusion * unit_user,
                item=item + config.feature_fusion * unit_item,
                feature_user=feature_user,
                feature_item=feature_item,
                id_user=id_user,
                id_item=id_item,
                modality_weight_user=weight_user,
                modality_weight_item=weight_item,
            )
