"""Vectors of users and items that were not trained: the model's own equations, one node at a time.

A new user is known by their items N, which are edges of the observed graph (`item_degree` as
trained: the graph does not change):

    f_m = sum_{i in N_m} w_i x_im                    the user's features, exactly
    S_m = the k items most similar to f_m            as structure learning picks them
    e_m = k^-1/2 sum_{i in S_m} e_i                  over the learned edges
    u_0 = id_fusion * unit(attention({e_m}))         + the user's own ID embedding, which is unknown
    u_l = sum_{i in N} w_i v_{l-1, i}                rounds of the light GCN
    u   = mean_l u_l + feature_fusion * sum_m unit(f_m)

N_m are the items of N that have modality m; the degree in their weights counts these alone, as in
training. Only the user's own ID embedding, a share 1 / (rounds + 1) of u, is left out, as zero, the
value that it is initialised around.

A new item is known by its features. The model's equations for an item without interactions give
zero features and an untrained ID embedding. So the k users whose features are most alike stand in
for the item's own users, as structure learning joins users and items by the cosine of their
features (k is structure.k):

    x_m = raw_m W_m + b_m                            the item's features
    N_m = the k users u with the largest cos(x_m, f_um), among those with a feature f_um
    e_m = k^-1/2 sum_{u in N_m} e_u                  over the learned edges
    v_0 = id_fusion * unit(attention({e_m}))         + the item's own ID embedding, which is unknown
    v_l = mean_m sum_{u in N_m} w_u u_{l, u}         rounds of the light GCN; w_u for k neighbours
    v   = mean_l v_l + feature_fusion * sum_m unit(x_m)

Where the item lacks modality m, x_m is zero, and N_m and e_m are empty and zero, as for a user
without a feature of m; the mean over m is that of the modalities that the item has.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmssl_jax.graph.bipartite import Normalization, directed_graph
from mmssl_jax.graph.propagate import propagate
from mmssl_jax.graph.rows import BatchEdges
from mmssl_jax.methods.mmssl.config import MMSSLConfig, ModelConfig
from mmssl_jax.methods.mmssl.encoders import FeatureEncoder
from mmssl_jax.methods.mmssl.fusion import CrossModalAttention
from mmssl_jax.methods.mmssl.learned_graphs import edges_per_user, top_k_items
from mmssl_jax.methods.mmssl.model import (
    final_embedding,
    id_layers,
    light_gcn_input,
    round_activation,
)
from mmssl_jax.methods.mmssl.state import Inputs, Params, Setup, State, forward
from mmssl_jax.norms import unit_rows


class Knowledge(NamedTuple):
    """What vectors of new users and items are made from; dicts are keyed by modality.

    encoder, attention: parameters. encoded: the items' features x_m before propagation, 0 for items
    that lack m; `present` says who has m, for the modalities that some items lack. item_layers and
    user_layers: what users and items gather in each round of the light GCN, by its number.
    Degrees are of training.
    """

    encoder: Params
    attention: Params
    user_ids: Float[Array, "U D"]
    item_ids: Float[Array, "I D"]
    feature_user: dict[str, Float[Array, "U D"]]
    feature_item: dict[str, Float[Array, "I D"]]
    encoded: dict[str, Float[Array, "I D"]]
    present: dict[str, Bool[Array, " I"]]
    user_layers: dict[str, Float[Array, "U D"]]
    item_layers: dict[str, Float[Array, "I D"]]
    user_degree: Float[Array, " U"]
    item_degree: Float[Array, " I"]


def knowledge_of(setup: Setup, state: State, inputs: Inputs) -> Knowledge:
    """Runs a trained model once, without dropout."""
    model, generator = setup.config.model, state.generator
    embeddings = forward(setup, generator, state.learned, inputs, None)
    ids = generator["user_embedding"], generator["item_embedding"]
    sides = (embeddings.id_user, embeddings.id_item)
    users, items = (
        light_gcn_input(of_ids, fused_ids(generator["attention"], by_modality, model), model)
        for of_ids, by_modality in zip(ids, sides, strict=True)
    )
    layers = id_layers(inputs.observed.ids, users, items, model)
    of_users, of_items = zip(*layers, strict=True)
    delay = 1 if model.propagation_order == "users_first" else 0
    present = {m: partial.present for m, partial in inputs.observed.partial.items()}
    counts = jnp.ones(setup.sizes.n_train)
    rows, sizes = inputs.rows, setup.sizes
    return Knowledge(
        encoder=generator["encoder"],
        attention=generator["attention"],
        user_ids=ids[0],
        item_ids=ids[1],
        feature_user=embeddings.feature_user,
        feature_item=embeddings.feature_item,
        encoded=encode(generator["encoder"], inputs.features, model, present),
        present=present,
        user_layers=_by_round(of_users[delay : delay + model.gnn_layers]),
        item_layers=_by_round(of_items[: model.gnn_layers]),
        user_degree=jax.ops.segment_sum(counts, rows.users, sizes.n_users),
        item_degree=jax.ops.segment_sum(counts, rows.items, sizes.n_items),
    )


def _by_round(layers: Sequence[Float[Array, "N D"]]) -> dict[str, Float[Array, "N D"]]:
    return {f"{number:03d}": layer for number, layer in enumerate(layers)}


def encode(
    encoder: Params,
    features: Mapping[str, Float[Array, "N _F"]],
    model: ModelConfig,
    present: Mapping[str, Bool[Array, " N"]],
) -> dict[str, Float[Array, "N D"]]:
    """x_m = raw_m W_m + b_m of any items, without dropout; 0, without the bias, where an item lacks
    m. present: who has m, for modalities that some lack."""
    encoded: dict[str, Float[Array, "N D"]] = FeatureEncoder(model.dim, model.dropout).apply(
        {"params": encoder}, dict(features), True
    )  # type: ignore[assignment]
    return {
        m: jnp.where(present[m][:, None], x, 0.0) if m in present else x for m, x in encoded.items()
    }


def fused_ids(
    attention: Params, by_modality: Mapping[str, Float[Array, "N D"]], model: ModelConfig
) -> Float[Array, "N D"]:
    """The unit of the attention over sums of ID embeddings, one for each modality's edges."""
    module = CrossModalAttention(model.dim, model.heads, model.attention_values)
    fused, _ = module.apply({"params": attention}, list(by_modality.values()))
    return fused


def user_vectors(config: MMSSLConfig, known: Knowledge, rows: BatchEdges) -> Float[Array, "B D"]:
    """The vectors of the users whose items are `rows`; a user without items gets zeros."""
    model = config.model
    weights = _weights_into_users(rows, known.item_degree, model.id_normalization)
    features = user_features(config, known, rows)
    learned = {m: _over_learned_edges(config, known, m, f, rows) for m, f in features.items()}
    layers = [light_gcn_input(0.0, fused_ids(known.attention, learned, model), model)]
    for layer, items in enumerate(known.item_layers.values()):
        layers.append(round_activation(layer, model)(_from_items(rows, weights, items)))
    vectors = final_embedding(layers, features, model)
    return jnp.where(rows.degree[:, None] > 0, vectors, 0.0)


def user_features(
    config: MMSSLConfig, known: Knowledge, rows: BatchEdges
) -> dict[str, Float[Array, "B D"]]:
    """f_m of the users whose items are `rows`, as the model makes its own users' from theirs.

    Zero for a user none of whose items has modality m.
    """
    features = {}
    for m, x in known.encoded.items():
        having = rows.mask & known.present[m][rows.item] if m in known.present else rows.mask
        normalization = config.model.feature_normalization
        weights = _weights_into_users(rows._replace(mask=having), known.item_degree, normalization)
        features[m] = _from_items(rows, weights, x)
    return features


def item_vectors(
    config: MMSSLConfig,
    known: Knowledge,
    features: Mapping[str, Float[Array, "B _F"]],
    present: Mapping[str, Bool[Array, " B"]],
) -> Float[Array, "B D"]:
    """The vectors of the items of these raw features, each of which has one modality at least."""
    model = config.model
    encoded = encode(known.encoder, features, model, present)
    has = {m: jnp.any(x != 0, axis=1, keepdims=True) for m, x in encoded.items()}
    nearest = {m: _nearest_users(config, known.feature_user[m], x) for m, x in encoded.items()}
    counts = {m: jnp.maximum(jnp.sum(n.found, axis=1), 1)[:, None] for m, n in nearest.items()}
    learned = {m: _from_users(n, counts[m] ** -0.5, known.user_ids) for m, n in nearest.items()}
    layers = [light_gcn_input(0.0, fused_ids(known.attention, learned, model), model)]
    n_modalities = jnp.maximum(sum(h.astype(float) for h in has.values()), 1.0)
    for layer, users in enumerate(known.user_layers.values()):
        sums = []
        for m, near in nearest.items():
            degree = known.user_degree[near.users]
            weights = edge_weights_into(
                counts[m] * jnp.ones(degree.shape), degree, model.id_normalization
            )
            sums.append(_from_users(near, weights, users))
        mean = functools.reduce(jnp.add, sums) / n_modalities
        layers.append(round_activation(layer, model)(mean))
    return final_embedding(layers, encoded, model)


class Neighbours(NamedTuple):
    """The users next to each new item; where fewer are found, the rest of a row is not."""

    users: Int[Array, "B K"]
    found: Bool[Array, "B K"]


def _nearest_users(
    config: MMSSLConfig, feature_user: Float[Array, "U D"], encoded: Float[Array, "B D"]
) -> Neighbours:
    """The users with the largest cosine, none for an item without the modality."""
    has_it, known = jnp.any(encoded != 0, axis=1), jnp.any(feature_user != 0, axis=1)
    k = min(config.structure.k, feature_user.shape[0])
    # A channel more, through which users without the feature lose to all others.
    behind = jnp.where(known, 0.0, -1e30)[:, None]
    users = jnp.concatenate([unit_rows(feature_user), behind], axis=1)
    items = jnp.concatenate([unit_rows(encoded), jnp.ones((len(encoded), 1))], axis=1)
    top = top_k_items(items, users, None, k, config.structure.block_items, config.precision)
    return Neighbours(top, has_it[:, None] & known[top])


def _from_users(
    near: Neighbours, weights: Float[Array, "B _K"], users: Float[Array, "U D"]
) -> Float[Array, "B D"]:
    """Sums over each item's neighbours."""
    (n_items, k), weights = near.users.shape, jnp.where(near.found, weights, 0.0)
    receivers = jnp.repeat(jnp.arange(n_items, dtype=jnp.int32), k)
    graph = directed_graph(near.users.reshape(-1), receivers, weights.reshape(-1), len(users))
    return propagate(graph, users, n_items)


def _from_items(
    rows: BatchEdges, weights: Float[Array, " S"], items: Float[Array, "I D"]
) -> Float[Array, "B D"]:
    """Sums over each user's items."""
    graph = directed_graph(rows.item, rows.row, weights, len(items))
    return propagate(graph, items, rows.n_rows)


def _over_learned_edges(
    config: MMSSLConfig,
    known: Knowledge,
    modality: str,
    features: Float[Array, "B D"],
    rows: BatchEdges,
) -> Float[Array, "B D"]:
    """Sum of the ID embeddings of the k most similar items, each weighing k^-1/2."""
    structure, items = config.structure, known.feature_item[modality]
    k = edges_per_user(structure.k, structure.k_rate, len(items))
    if not k:
        return jnp.zeros_like(features)
    if structure.similarity == "cosine":
        features, items = unit_rows(features), unit_rows(items)
    observed = rows if structure.mask_observed else None
    top = top_k_items(features, items, observed, k, structure.block_items, config.precision)
    has_any = jnp.any(features != 0, axis=1)[:, None]
    return jnp.where(has_any, jnp.sum(known.item_ids[top], axis=1) * k**-0.5, 0.0)


def _weights_into_users(
    rows: BatchEdges, item_degree: Float[Array, " I"], normalization: Normalization
) -> Float[Array, " S"]:
    """Edge weights into the new users from the items with a true mask; the others weigh 0."""
    degree = jax.ops.segment_sum(rows.mask.astype(float), rows.row, rows.n_rows)[rows.row]
    degree = jnp.where(rows.mask, degree, 1.0)
    weights = edge_weights_into(degree, item_degree[rows.item], normalization)
    return jnp.where(rows.mask, weights, 0.0)


def edge_weights_into(
    degree: Float[Array, "*edges"],
    neighbour_degree: Float[Array, "*edges"],
    normalization: Normalization,
) -> Float[Array, "*edges"]:
    """Weights of edges into new nodes of `degree` neighbours, whose own degrees are as trained.

    A neighbour without training interactions counts one, the new edge. See
    `bipartite.edge_weights`.
    """
    if normalization == "symmetric":
        degree = degree * jnp.maximum(neighbour_degree, 1.0)
    return degree ** (-1.0 if normalization == "mean" else -0.5)
