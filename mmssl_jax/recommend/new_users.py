"""Vectors of users who were not trained and are known by their items alone.

The model's own equations, over the new user's items N as edges of the observed graph, with w_i the
configured edge weight (`item_degree` as trained: the graph does not change):

    f_m = sum_{i in N_m} w_i x_im                    the user's features, exactly
    S_m = the k items most similar to f_m            as structure learning picks them
    e_m = k^-1/2 sum_{i in S_m} e_i                  over the learned edges
    u_0 = id_fusion * unit(attention({e_m}))         + the user's own ID embedding, which is unknown
    u_l = sum_{i in N} w_i v_{l-1, i}                rounds of the light GCN
    u   = mean_l u_l + feature_fusion * sum_m unit(f_m)

N_m are the items of N that have modality m; the degree in their weights counts these alone, as in
training. Only the user's own ID embedding, a share 1 / (rounds + 1) of u, is left out, as zero, the
value that it is initialised around.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.config import Config
from mmssl_jax.graph.bipartite import Normalization
from mmssl_jax.graph.rows import BatchEdges
from mmssl_jax.graph.structure import top_k_items
from mmssl_jax.model.mmssl import round_activation
from mmssl_jax.model.norms import unit_rows
from mmssl_jax.recommend.trained import Trained, edge_weights_into, first_layer


def new_user_vectors(
    trained: Trained, rows: BatchEdges, like: Float[Array, " B"], config: Config, k: int
) -> Float[Array, "B D"]:
    """The vectors of the users whose items are `rows`; a user without items gets zeros.

    Args:
      like: zeros, one per user.
      k: learned edges per user.
    """
    n_users, model = like.shape[0], config.model

    for_ids = _weights(rows, n_users, trained.item_degree, model.id_normalization)
    features = new_user_features(trained, rows, like, config)
    learned = {m: _learned(trained, m, f, rows, config, k) for m, f in features.items()}
    layers = [first_layer(trained.generator, learned, model)]
    for layer in range(model.gnn_layers):
        gathered = _gather(rows, n_users, for_ids, trained.item_layers[layer])
        layers.append(round_activation(layer, model)(gathered))
    vectors = sum(layers) / len(layers)
    unit = sum(unit_rows(f) for f in features.values())
    has_items = jax.ops.segment_sum(rows.mask.astype(float), rows.row, n_users) > 0
    return jnp.where(has_items[:, None], vectors + model.feature_fusion * unit, 0.0)


def new_user_features(
    trained: Trained, rows: BatchEdges, like: Float[Array, " B"], config: Config
) -> dict[str, Float[Array, "B D"]]:
    """f_m of the users whose items are `rows`, as the model makes its own users' from theirs.

    Zero for a user none of whose items has modality m. like: zeros, one per user.
    """
    n_users, features = like.shape[0], {}
    for m, x in trained.encoded.items():
        having = rows.mask & trained.present[m][rows.item] if m in trained.present else rows.mask
        of_m = rows._replace(mask=having)
        normalization = config.model.feature_normalization
        weights = _weights(of_m, n_users, trained.item_degree, normalization)
        features[m] = _gather(rows, n_users, weights, x)
    return features


def _gather(
    rows: BatchEdges, n_users: int, weights: Float[Array, " S"], of_items: Float[Array, "I D"]
) -> Float[Array, "B D"]:
    messages = weights[:, None] * of_items[rows.item]
    return jax.ops.segment_sum(messages, rows.row, n_users, indices_are_sorted=True)


def _learned(
    trained: Trained,
    modality: str,
    features: Float[Array, "B D"],
    rows: BatchEdges,
    config: Config,
    k: int,
) -> Float[Array, "B D"]:
    """Sum of the ID embeddings of the k most similar items, each weighing k^-1/2."""
    if not k:
        return jnp.zeros_like(features)
    items = trained.embeddings.feature_item[modality]
    if config.structure.similarity == "cosine":
        features, items = unit_rows(features), unit_rows(items)
    observed = rows if config.structure.mask_observed else None
    top = top_k_items(features, items, observed, k, config.structure.block_items, config.precision)
    known = jnp.any(features != 0, axis=1)[:, None]
    ids = trained.generator["item_embedding"]
    return jnp.where(known, jnp.sum(ids[top], axis=1) * k**-0.5, 0.0)


def _weights(
    rows: BatchEdges, n_users: int, item_degree: Float[Array, " I"], normalization: Normalization
) -> Float[Array, " S"]:
    """Edge weights into the new users from the items with a true mask; the others weigh 0."""
    degree = jax.ops.segment_sum(rows.mask.astype(float), rows.row, n_users)[rows.row]
    degree = jnp.where(rows.mask, degree, 1.0)
    weights = edge_weights_into(degree, item_degree[rows.item], normalization)
    return jnp.where(rows.mask, weights, 0.0)
