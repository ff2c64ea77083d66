"""Vectors of items that were not trained and are known by their features alone.

The model's equations for an item without interactions give zero features and an untrained ID
embedding. So the k users whose features are most alike stand in for the item's own users, as
structure learning joins users and items by the cosine of their features (k is structure.k):

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

import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.config import Config
from mmssl_jax.model.mmssl import round_activation
from mmssl_jax.model.norms import unit_rows
from mmssl_jax.ranking.topk import top_k_unseen
from mmssl_jax.recommend.rank import without
from mmssl_jax.recommend.trained import Trained, edge_weights_into, first_layer


def new_item_vectors(
    trained: Trained, encoded: dict[str, Float[Array, "B D"]], config: Config
) -> Float[Array, "B D"]:
    """The vectors of the items whose features are `encoded`: x_m by modality, 0 where the item
    lacks m. Each has one modality at least."""
    model = config.model
    k = min(config.structure.k, trained.user_degree.shape[0])
    nothing = jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32), jnp.zeros(1, bool)
    neighbours, present = {}, {}
    has = {m: jnp.any(x != 0, axis=1, keepdims=True) for m, x in encoded.items()}
    for m, x in encoded.items():
        known = jnp.any(trained.embeddings.feature_user[m] != 0, axis=1)
        users = without(unit_rows(trained.embeddings.feature_user[m]), ~known)
        query = without(unit_rows(x), None)
        _, neighbours[m] = top_k_unseen(query, users, *nothing, k, precision=config.precision)
        # Not all k, where fewer users have a feature.
        present[m] = has[m] & known[neighbours[m]]

    def gather(m: str, weights: Float[Array, "B K"], users: Float[Array, "U D"]) -> Array:
        weights = jnp.where(present[m], weights, 0.0)
        return jnp.sum(weights[:, :, None] * users[neighbours[m]], axis=1)

    counts = {
        m: jnp.maximum(jnp.sum(p, axis=1, keepdims=True), 1) * jnp.ones(p.shape)
        for m, p in present.items()
    }
    n_modalities = jnp.maximum(sum(h.astype(float) for h in has.values()), 1.0)
    ids = trained.generator["user_embedding"]
    learned = {m: gather(m, count**-0.5, ids) for m, count in counts.items()}
    layers = [first_layer(trained.generator, learned, model)]
    for layer in range(model.gnn_layers):
        sums = []
        for m, count in counts.items():
            degree = trained.user_degree[neighbours[m]]
            weights = edge_weights_into(count, degree, model.id_normalization)
            sums.append(gather(m, weights, trained.user_layers[layer]))
        mean = functools.reduce(jnp.add, sums) / n_modalities
        layers.append(round_activation(layer, model)(mean))
    unit = sum(unit_rows(x) for x in encoded.values())
    return sum(layers) / len(layers) + model.feature_fusion * unit
