"""CrossView's vectors of users and items that were not trained: the model's own equations.

A new user is known by their items N, d of them, and takes the place of a row of the graph and of
the users' view, which stay as trained:

    u_l = sum_{i in N} i_{l-1} / sqrt(d d_i)    rounds l = 1 .. L over the interactions
    q_u = sum_{i in N} (R' W^(a-1) P_U)_i / sum_{i in N} d_i
    t_u = sum_{i in N} (q_i / |q_i|) / sqrt(d_i)
    u   = (u_1 + .. + u_L) / (L + 1) + w_U q_u / |q_u| + w_T t_u / |t_u|

Left out is the user's own embedding u_0, as zero, the value that it is initialised around. An item
without training interactions adds nothing.

A new item is known by its features. It joins the hypergraph's edges of the k items that are nearest
to it by each modality, as an item of training does:

    x   = D^-1/2 (D^-1/2 H H' D^-1/2)^(b-1) P_I
    q_i = sum_m sum_{j among the k nearest by m} (H_m' x)_j
    i   = w_I (1 + lean) q_i / |q_i|

It has no interactions, so nothing else is known of it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmssl_jax.graph.item_graph import nearest_of_queries
from mmssl_jax.graph.propagate import propagate
from mmssl_jax.graph.rows import BatchEdges
from mmssl_jax.methods.crossview.config import CrossViewConfig
from mmssl_jax.methods.crossview.model import Inputs, Params, view_length
from mmssl_jax.methods.lightgcn import rounds
from mmssl_jax.methods.views import view_of_items, view_of_users
from mmssl_jax.norms import unit_rows


class Knowledge(NamedTuple):
    """What vectors of new users and items are made from; dicts are keyed by modality.

    item_rounds: sum of the items' embeddings of rounds 0 .. L - 1, over L + 1. item_views: what an
    item adds to the view of a user who has it. item_contents: their own views q_i / |q_i|.
    edge_views: what the hypergraph's edge of each item
    adds to an item in it. features: centred; `means` was subtracted.
    """

    item_degree: Float[Array, " I"]
    item_rounds: Float[Array, "I D"]
    item_views: Float[Array, "I D"]
    item_contents: Float[Array, "I D"]
    edge_views: dict[str, Float[Array, "I D"]]
    features: dict[str, Float[Array, "I _F"]]
    means: dict[str, Float[Array, " _F"]]


def knowledge_of(method: Any, state: Any, inputs: Inputs) -> Knowledge:
    """Runs a trained model once."""
    params: Params = method.ranking_params(state)
    settings, n_items, rows = method.config.view, method.n_items, inputs.rows
    layers = rounds(inputs.graph, params.users, params.items, settings.layers)
    before_the_last = sum((layer.items for layer in layers[:-1]), jnp.zeros_like(params.items))
    item_views = jnp.zeros_like(params.items)
    if settings.user_hops:
        walked = view_of_users(inputs.co_users, params.view_users, n_items, settings.user_hops - 1)
        item_views = propagate(inputs.co_users.interactions.to_columns, walked, n_items)
    n_edges, contents = len(inputs.features) * n_items, jnp.zeros_like(params.items)
    edges = jnp.zeros((n_edges, settings.dim))
    if settings.item_hops:
        walked = view_of_items(inputs.content, params.view_items, n_edges, settings.item_hops - 1)
        edges = propagate(inputs.content.to_columns, walked, n_edges)
        contents = unit_rows(view_of_items(inputs.content, walked, n_edges, 1))
    by_modality = jnp.split(edges, len(inputs.features))
    return Knowledge(
        item_degree=jax.ops.segment_sum(jnp.ones(len(rows.items)), rows.items, n_items),
        item_rounds=before_the_last / (settings.layers + 1),
        item_views=item_views,
        item_contents=contents,
        edge_views=dict(zip(inputs.features, by_modality, strict=True)),
        features=inputs.features,
        means=inputs.means,
    )


def user_vectors(
    config: CrossViewConfig, known: Knowledge, rows: BatchEdges
) -> Float[Array, "B D"]:
    """The vectors of the users whose items are `rows`; a user without items gets zeros."""
    degree = known.item_degree[rows.item]
    own = rows.degree[rows.row].astype(degree.dtype)
    # The degree is guarded, not the root: an item without interactions has embeddings of its own.
    weight = jnp.where(rows.mask, jax.lax.rsqrt(jnp.maximum(own * degree, 1.0)), 0.0)
    weight = jnp.where(degree > 0, weight, 0.0)
    interactions = _sums(rows, weight, known.item_rounds)
    views = _sums(rows, rows.mask.astype(weight.dtype), known.item_views)
    taste = _sums(rows, weight, known.item_contents)
    weights = config.view.user_weight, config.view.taste_weight
    return interactions + weights[0] * unit_rows(views) + weights[1] * unit_rows(taste)


def _sums(
    rows: BatchEdges, weights: Float[Array, " S"], items: Float[Array, "I D"]
) -> Float[Array, "B D"]:
    messages = weights[:, None] * items[rows.item]
    return jax.ops.segment_sum(messages, rows.row, rows.n_rows, indices_are_sorted=True)


def item_vectors(
    config: CrossViewConfig,
    known: Knowledge,
    features: Mapping[str, Float[Array, "B _F"]],
    present: Mapping[str, Bool[Array, " B"]],
) -> Float[Array, "B D"]:
    """The vectors of the items of these raw features, each of which has one modality at least."""
    dim = known.item_rounds.shape[1]
    total = jnp.zeros((len(next(iter(features.values()))), dim))
    for m, x in features.items():
        queries = jnp.where(present[m][:, None], x - known.means[m][None, :], 0.0)
        near = nearest_of_queries(queries, known.features[m], config.view.neighbours)
        of_edges = known.edge_views[m][near.items]
        total += jnp.sum(jnp.where(near.found[:, :, None], of_edges, 0.0), axis=1)
    return view_length(config.view, jnp.zeros(len(total)))[:, None] * unit_rows(total)
