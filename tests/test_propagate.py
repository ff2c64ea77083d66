import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.graph import propagate as propagate_module
from mmssl_jax.graph.bipartite import observed_graph
from mmssl_jax.graph.propagate import propagate
from tests.problems import (
    N_ITEMS,
    N_USERS,
    TOLERANCE,
    assert_close,
    edge_array,
    interaction_matrix,
    precision,
    propagation_matrix,
)


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("normalization", ["receiver", "symmetric", "mean"])
@pytest.mark.parametrize("at_once", [9, 2**19])
def test_a_round_is_a_product_with_the_propagation_matrix(
    monkeypatch, normalization, name, at_once
):
    monkeypatch.setattr(propagate_module, "vectors_at_once", lambda width: at_once)
    matrix, rng = interaction_matrix(), np.random.default_rng(0)
    assert len(edge_array(matrix)) % at_once  # the last piece overlaps the one before
    items, users = rng.normal(size=(N_ITEMS, 5)), rng.normal(size=(N_USERS, 5))
    with precision(name) as dtype:
        graph = observed_graph(edge_array(matrix), N_USERS, N_ITEMS, normalization)
        to_users = propagate(graph.to_users, jnp.asarray(items, dtype), N_USERS)
        to_items = propagate(graph.to_items, jnp.asarray(users, dtype), N_ITEMS)

    assert_close(to_users, propagation_matrix(matrix, normalization) @ items, TOLERANCE[name])
    assert_close(to_items, propagation_matrix(matrix.T, normalization) @ users, TOLERANCE[name])


def test_a_receiver_without_edges_gets_zeros():
    graph = observed_graph(edge_array(interaction_matrix()), N_USERS, N_ITEMS, "receiver")

    received = np.asarray(propagate(graph.to_users, jnp.ones((N_ITEMS, 3)), N_USERS))

    np.testing.assert_array_equal(received[0], np.zeros(3))
    assert np.all(received[1:] > 0)


@pytest.mark.parametrize("at_once", [5, 2**19])
def test_the_gradient_is_a_product_with_the_transposed_matrix(monkeypatch, at_once):
    monkeypatch.setattr(propagate_module, "vectors_at_once", lambda width: at_once)
    matrix, rng = interaction_matrix(), np.random.default_rng(1)
    assert len(edge_array(matrix)) % at_once
    graph = observed_graph(edge_array(matrix), N_USERS, N_ITEMS, "symmetric")
    items, weights = rng.normal(size=(N_ITEMS, 4)), rng.normal(size=(N_USERS, 4))

    gradient = jax.grad(
        lambda x: jnp.sum(propagate(graph.to_users, x, N_USERS) * jnp.asarray(weights))
    )(jnp.asarray(items, jnp.float32))

    assert_close(gradient, propagation_matrix(matrix, "symmetric").T @ weights, 1e-5)
