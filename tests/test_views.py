"""The second views of users and items against dense NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import DataConfig
from mmssl_jax.graph.item_graph import modality_neighbours
from mmssl_jax.methods.views import co_users, content_hypergraph, view_of_items, view_of_users
from tests.problems import partial_dataset, precision

K, DIM = 3, 4


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_users_see_those_who_share_their_items(hops):
    dataset, rng = partial_dataset(), np.random.default_rng(0)
    interactions = np.zeros((dataset.n_users, dataset.n_items))
    interactions[*dataset.train.T] = 1.0
    shared = interactions @ interactions.T
    np.fill_diagonal(shared, 0.0)
    sums = shared.sum(axis=1, keepdims=True)
    walk = np.divide(shared, sums, where=sums > 0, out=np.zeros_like(shared))
    x = rng.normal(size=(dataset.n_users, DIM))
    view = co_users(dataset.train, dataset.n_users, dataset.n_items)
    found = view_of_users(view, jnp.asarray(x, jnp.float32), dataset.n_items, hops)
    np.testing.assert_allclose(found, np.linalg.matrix_power(walk, hops) @ x, atol=2e-5)


def test_a_user_alone_sees_nobody():
    view = co_users(np.array([[0, 0], [1, 1], [2, 1]]), 4, 3)
    found = view_of_users(view, jnp.eye(4), 3, 1)
    np.testing.assert_allclose(found, [[0] * 4, [0, 0, 1, 0], [0, 1, 0, 0], [0] * 4], atol=1e-6)


@pytest.mark.parametrize("hops", [1, 2])
def test_items_see_those_of_like_content(hops):
    dataset, rng = partial_dataset(), np.random.default_rng(0)
    neighbours = modality_neighbours(dataset, K, True, DataConfig())
    n_items = dataset.n_items
    parts = []
    for near in neighbours.values():
        part = np.zeros((n_items, n_items))
        for row, (items, kept) in enumerate(zip(near.items, near.found, strict=True)):
            part[row, np.asarray(items)[np.asarray(kept)]] = 1.0
        parts.append(part)
    incidence = np.concatenate(parts, axis=1)
    product = incidence @ incidence.T
    degree = product.sum(axis=1)
    root = np.divide(1.0, np.sqrt(degree), where=degree > 0, out=np.zeros(n_items))
    normal = root[:, None] * product * root
    x = rng.normal(size=(n_items, DIM))
    with precision("float32"):
        graph = content_hypergraph(neighbours)
        n_edges = len(neighbours) * n_items
        found = view_of_items(graph, jnp.asarray(x, jnp.float32), n_edges, hops)
    np.testing.assert_allclose(found, np.linalg.matrix_power(normal, hops) @ x, atol=1e-5)
