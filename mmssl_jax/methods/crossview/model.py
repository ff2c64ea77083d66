"""CrossView's equations: vectors of users and items, their views, and the loss of a batch.

With N(u) the training items of user u, d degrees, E the embeddings of interactions and P those of
the views, LGCN_L(E) the mean of E after 0 .. L rounds of the light graph convolution:

    q_U = W^a P_U            users who share items          (methods/views.py)
    q_I = (D^-1/2 H H' D^-1/2)^b P_I    items of like content
    t_u = sum_{i in N(u)} (q_i / |q_i|) / sqrt(d_u d_i)        the taste of users
    u = LGCN_L(E)_u + w_U q_u / |q_u| + w_T t_u / |t_u|        i = LGCN_L(E)_i + w_i q_i / |q_i|
    w_i = w_I (1 + lean / (d_i + 1))                           score of u and i: u . i

Over a batch of interactions (u, i), and N items j drawn for all of them,

    s(u, i) = u . i / (|u|^p |i|^r)
    loss = mean of -log e^(s(u, i)/t) / (e^(s(u, i)/t) + sum_j e^(s(u, j)/t))
           + c_U CL(u, q_U) + c_I CL(i, q_I) + regularization

where CL is `losses.contrastive` between vectors and views of nodes drawn anew each step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mmssl_jax.graph.bipartite import BipartiteGraph
from mmssl_jax.graph.propagate import users_from_items
from mmssl_jax.graph.rows import InteractionRows
from mmssl_jax.graph.sparse import SparseMatrix
from mmssl_jax.losses.bpr import bpr_loss, embedding_l2
from mmssl_jax.losses.contrastive import contrastive_loss
from mmssl_jax.losses.sampled_softmax import sampled_softmax
from mmssl_jax.method import Metrics, Vectors
from mmssl_jax.methods.crossview.config import CrossViewConfig, ViewSettings
from mmssl_jax.methods.lightgcn import light_gcn
from mmssl_jax.methods.trained import Step, of_batch
from mmssl_jax.methods.views import CoUsers, view_of_items, view_of_users
from mmssl_jax.nodes import Nodes, own_rows, shared_rows
from mmssl_jax.norms import unit_rows
from mmssl_jax.parallel import share_of
from mmssl_jax.sampling import distinct_places


class Inputs(NamedTuple):
    """Constant arrays: the interactions as a graph, by user, and as the users' view walks them; the
    items' hypergraph; and the features that it was made from, centred, with the means that were
    subtracted. `view_length` is w_i of each item."""

    graph: BipartiteGraph
    rows: InteractionRows
    co_users: CoUsers
    content: SparseMatrix
    features: dict[str, Float[Array, "I _F"]]
    means: dict[str, Float[Array, " _F"]]
    view_length: Float[Array, " I"]


class Params(NamedTuple):
    """Embeddings of the interactions, E, and of the views, P."""

    users: Float[Array, "U D"]
    items: Float[Array, "I D"]
    view_users: Float[Array, "U D"]
    view_items: Float[Array, "I D"]


class Embeddings(NamedTuple):
    """Vectors u and i that rank, and the views q_U and q_I."""

    vectors: Vectors
    views: Vectors


def view_length(settings: ViewSettings, degree: Float[Array, " I"]) -> Float[Array, " I"]:
    """w_i of items with these numbers of training interactions."""
    return settings.item_weight * (1 + settings.lean / (degree + 1))


class Catalogue(NamedTuple):
    """Static: all users and items, and how their rows are spread, if they are."""

    n_users: int
    n_items: int
    nodes: Nodes | None = None


def embeddings(
    settings: ViewSettings, params: Params, inputs: Inputs, catalogue: Catalogue
) -> Embeddings:
    """Vectors and views of all users and items; a view that is off is zero."""
    (_, n_items, nodes), graph = catalogue, inputs.graph
    users, items = light_gcn(graph, params.users, params.items, settings.layers, nodes)
    of_users, of_items = jnp.zeros_like(users), jnp.zeros_like(items)
    if settings.user_hops:
        of_users = view_of_users(
            inputs.co_users, params.view_users, n_items, settings.user_hops, nodes
        )
    if settings.item_hops:
        n_edges = len(inputs.features) * n_items
        of_items = view_of_items(
            inputs.content, params.view_items, n_edges, settings.item_hops, nodes
        )
    users += settings.user_weight * unit_rows(of_users)
    items += inputs.view_length[:, None] * unit_rows(of_items)
    if settings.taste_weight and settings.item_hops:
        taste = users_from_items(graph.to_users, unit_rows(of_items), len(users), nodes)
        users += settings.taste_weight * unit_rows(taste)
    return Embeddings(Vectors(users, items), Vectors(of_users, of_items))


class Loss(NamedTuple):
    """What is static in a batch's loss. axis: the devices that share the batch."""

    config: CrossViewConfig
    catalogue: Catalogue
    axis: str | None


def batch_loss(
    loss: Loss, params: Params, embedded: Embeddings, step: Step, rows: InteractionRows
) -> tuple[Float[Array, ""], Metrics]:
    """The loss on this device's share of a batch, and its parts."""
    config, (_, n_items, nodes) = loss.config, loss.catalogue
    batch, softmax = step.batch, config.softmax
    item_key, contrast_key = jax.random.split(step.key)
    users, positives, negatives = of_batch(embedded.vectors, batch, nodes)
    if softmax.kind == "softmax":
        drawn = jax.random.randint(item_key, (softmax.negatives,), 0, n_items)
        ranking = sampled_softmax(
            powered_rows(users, softmax.user_norm),
            powered_rows(positives, softmax.item_norm),
            powered_rows(shared_rows(embedded.vectors.items, drawn, nodes), softmax.item_norm),
            softmax.temperature,
        )
    else:
        ranking = bpr_loss(users, positives, negatives)
    parts = {"ranking": ranking, **contrasts(loss, embedded, contrast_key, rows)}
    total = ranking + config.contrast.users * parts.get("user_contrast", 0.0)
    total += config.contrast.items * parts.get("item_contrast", 0.0)
    if softmax.regularization:
        initial = of_batch(Vectors(params.users, params.items), batch, nodes)
        total += softmax.regularization * embedding_l2(*initial[:2])
    return total, {**parts, "loss": total}


def contrasts(
    loss: Loss, embedded: Embeddings, key: Key[Array, ""], rows: InteractionRows
) -> Metrics:
    """The contrast of each side whose view is on and whose weight is not 0."""
    (n_users, n_items, _), settings, view = loss.catalogue, loss.config.contrast, loss.config.view
    user_key, item_key = jax.random.split(key)
    (users, items), (user_views, item_views) = embedded
    found = Metrics()
    if settings.users and view.user_hops:
        drawn = draw_nodes(loss, user_key, n_users)
        found["user_contrast"] = contrast(loss, (users, user_views), drawn, rows.of_users(drawn))
    if settings.items and view.item_hops:
        drawn = draw_nodes(loss, item_key, n_items)
        found["item_contrast"] = contrast(loss, (items, item_views), drawn, drawn)
    return found


def draw_nodes(loss: Loss, key: Key[Array, ""], n: int) -> Int[Array, " C"]:
    """This device's share of the different nodes, of n, that a step contrasts."""
    return share_of(distinct_places(key, n, min(loss.config.contrast.nodes, n)), loss.axis)


def contrast(
    loss: Loss, sides: tuple[Array, Array], numbers: Int[Array, " C"], rows: Int[Array, " C"]
) -> Float[Array, ""]:
    """The contrast of nodes' vectors with their views, `sides`, in which they have these rows."""
    vectors, views = (own_rows(side, rows, loss.catalogue.nodes) for side in sides)
    return contrastive_loss(vectors, views, numbers, loss.config.contrast.temperature, loss.axis)


def powered_rows(x: Float[Array, "N D"], power: float) -> Float[Array, "N D"]:
    """x / |x|^power; a row of zeros stays so, with gradient zero unless power is 0."""
    if power == 0:
        return x
    if power == 1:
        return unit_rows(x)
    squared = jnp.sum(x * x, axis=1, keepdims=True)
    positive = squared > 1e-24
    return x * jnp.where(positive, jnp.where(positive, squared, 1.0) ** (-power / 2), 0.0)
