"""The recommender (the game's generator): from raw features and graphs to embeddings."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.graph.bipartite import BipartiteGraph
from mmssl_jax.graph.propagate import items_from_users, users_from_items
from mmssl_jax.methods.mmssl.config import ModelConfig
from mmssl_jax.methods.mmssl.encoders import FeatureEncoder, PartialModality, propagate_features
from mmssl_jax.methods.mmssl.fusion import CrossModalAttention
from mmssl_jax.nodes import Nodes, without_padding
from mmssl_jax.norms import unit_rows


class ObservedGraphs(NamedTuple):
    """The training interactions as the graph that features, and that ID embeddings, flow over.

    `partial` has the modalities that some items lack, whose features flow to users differently.
    """

    features: BipartiteGraph
    ids: BipartiteGraph
    partial: dict[str, PartialModality] = {}  # noqa: RUF012 (a pytree, which nobody changes)


class Embeddings(NamedTuple):
    """Everything the losses and the ranking need; dicts are keyed by modality.

    `user` and `item` rank; `initial_user` and `initial_item` are the ID embeddings themselves.
    """

    user: Float[Array, "U D"]
    item: Float[Array, "I D"]
    feature_user: dict[str, Float[Array, "U D"]]
    feature_item: dict[str, Float[Array, "I D"]]
    initial_user: Float[Array, "U D"]
    initial_item: Float[Array, "I D"]
    id_user: dict[str, Float[Array, "U D"]]
    id_item: dict[str, Float[Array, "I D"]]
    modality_weight_user: Float[Array, "M U"]
    modality_weight_item: Float[Array, "M I"]


def id_layers(
    graph: BipartiteGraph,
    users: Float[Array, "U D"],
    items: Float[Array, "I D"],
    config: ModelConfig,
    nodes: Nodes | None = None,
) -> list[tuple[Float[Array, "U D"], Float[Array, "I D"]]]:
    """Light GCN: users and items before the first and after each round over the observed graph."""
    n_users, n_items = users.shape[0], items.shape[0]
    layers = [(users, items)]
    for layer in range(config.gnn_layers):
        activation = round_activation(layer, config)
        new_users = activation(users_from_items(graph.to_users, items, n_users, nodes))
        source = new_users if config.propagation_order == "users_first" else users
        new_items = activation(items_from_users(graph.to_items, source, n_items, nodes))
        users, items = new_users, without_padding(new_items, nodes)
        layers.append((users, items))
    return layers


def light_gcn_input(
    ids: Float[Array, "N D"] | float, fused: Float[Array, "N D"], config: ModelConfig
) -> Float[Array, "N D"]:
    """z = e + id_fusion * unit(e~), from ID embeddings and unit fused modality-aware ones.

    A node that was not trained has no ID embedding: ids 0.
    """
    return ids + config.id_fusion * fused


def final_embedding(
    layers: Sequence[Float[Array, "N D"]],
    features: Mapping[str, Float[Array, "N D"]],
    config: ModelConfig,
) -> Float[Array, "N D"]:
    """h = mean over layers z^(l) + feature_fusion * sum over modalities of unit(f^m)."""
    mean = functools.reduce(jnp.add, layers) / len(layers)
    return mean + config.feature_fusion * sum(unit_rows(x) for x in features.values())


def round_activation(layer: int, config: ModelConfig) -> Callable[[Array], Array]:
    """What follows a round: nothing, or a softmax over the channels of the last one."""
    softened = config.last_layer_softmax and layer == config.gnn_layers - 1
    return jax.nn.softmax if softened else lambda x: x


class Generator(nn.Module):
    """The whole recommender; `config.dim` is D, modalities are the keys of `features`.

    n_users, n_items: of whom there are rows here.
    """

    n_users: int
    n_items: int
    config: ModelConfig
    nodes: Nodes | None = None

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
            encoder = FeatureEncoder(config.dim, config.dropout, self.nodes, name="encoder")
            encoded = encoder(features, deterministic, observed.partial)
            feature_user, feature_item = propagate_features(
                observed.features, encoded, self.n_users, observed.partial, self.nodes
            )

        with jax.named_scope("learned_graphs"):
            id_user = {
                m: users_from_items(g.to_users, item_ids, self.n_users, self.nodes)
                for m, g in learned.items()
            }
            id_item = {
                m: items_from_users(g.to_items, user_ids, self.n_items, self.nodes)
                for m, g in learned.items()
            }

        with jax.named_scope("attention"):
            attention = CrossModalAttention(
                config.dim, config.heads, config.attention_values, name="attention"
            )
            fused_user, weight_user = attention(list(id_user.values()))
            fused_item, weight_item = attention(list(id_item.values()))

        with jax.named_scope("light_gcn"):
            layers = id_layers(
                observed.ids,
                light_gcn_input(user_ids, fused_user, config),
                light_gcn_input(item_ids, fused_item, config),
                config,
                self.nodes,
            )

        with jax.named_scope("fusion"):
            of_users, of_items = zip(*layers, strict=True)
            return Embeddings(
                user=final_embedding(of_users, feature_user, config),
                item=final_embedding(of_items, feature_item, config),
                feature_user=feature_user,
                feature_item=feature_item,
                initial_user=user_ids,
                initial_item=item_ids,
                id_user=id_user,
                id_item=id_item,
                modality_weight_user=weight_user,
                modality_weight_item=weight_item,
            )
