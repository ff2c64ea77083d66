import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.graph.bipartite import Ends, bipartite_graph, observed_graph
from tests.problems import (
    N_ITEMS,
    N_USERS,
    TOLERANCE,
    edge_array,
    interaction_matrix,
    precision,
    propagation_matrix,
)

NORMALIZATIONS = ("receiver", "symmetric", "mean")


def dense(graph, n_receivers, n_senders):
    weights = np.zeros((n_receivers, n_senders))
    np.add.at(weights, (np.asarray(graph.receivers), np.asarray(graph.senders)), graph.edges)
    return weights


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_weights_are_the_dense_propagation_matrices(normalization, name):
    matrix = interaction_matrix()
    with precision(name) as dtype:
        graph = observed_graph(edge_array(matrix), N_USERS, N_ITEMS, normalization)
        to_users = dense(graph.to_users, N_USERS, N_ITEMS)
        to_items = dense(graph.to_items, N_ITEMS, N_USERS)

    assert graph.to_users.edges.dtype == dtype
    rtol = TOLERANCE[name]
    np.testing.assert_allclose(to_users, propagation_matrix(matrix, normalization), rtol=rtol)
    np.testing.assert_allclose(to_items, propagation_matrix(matrix.T, normalization), rtol=rtol)


def test_edges_are_sorted_by_receiver_whatever_their_order():
    edges = np.random.default_rng(0).permutation(edge_array(interaction_matrix()))
    graph = observed_graph(edges, N_USERS, N_ITEMS, "receiver")

    assert np.all(np.diff(graph.to_users.receivers) >= 0)
    assert np.all(np.diff(graph.to_items.receivers) >= 0)
    matrix = interaction_matrix()
    np.testing.assert_allclose(
        dense(graph.to_users, N_USERS, N_ITEMS), propagation_matrix(matrix, "receiver"), rtol=1e-6
    )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_masked_edges_count_neither_as_edges_nor_in_degrees(normalization):
    matrix = interaction_matrix()
    rng = np.random.default_rng(1)
    more = rng.integers((N_USERS, N_ITEMS), size=(40, 2))
    edges = np.concatenate([edge_array(matrix), more])
    order = rng.permutation(len(edges))
    mask = (np.arange(len(edges)) < matrix.sum())[order]
    users, items = jnp.asarray(edges[order, 0], jnp.int32), jnp.asarray(edges[order, 1], jnp.int32)

    graph = bipartite_graph(
        Ends(users, N_USERS), Ends(items, N_ITEMS), jnp.asarray(mask), normalization
    )

    np.testing.assert_allclose(
        dense(graph.to_users, N_USERS, N_ITEMS),
        propagation_matrix(matrix, normalization),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        dense(graph.to_items, N_ITEMS, N_USERS),
        propagation_matrix(matrix.T, normalization),
        rtol=1e-6,
    )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_repeated_edges_add_up(normalization):
    counts = interaction_matrix() * np.random.default_rng(2).integers(1, 4, (N_USERS, N_ITEMS))
    edges = np.repeat(edge_array(counts), counts[counts > 0], axis=0)

    graph = observed_graph(edges, N_USERS, N_ITEMS, normalization)

    np.testing.assert_allclose(
        dense(graph.to_users, N_USERS, N_ITEMS),
        propagation_matrix(counts, normalization),
        rtol=1e-6,
    )


def test_a_graph_of_masked_edges_only_weighs_nothing():
    nodes = jnp.zeros(4, jnp.int32)
    graph = bipartite_graph(Ends(nodes, 3), Ends(nodes, 3), jnp.zeros(4, bool), "symmetric")

    np.testing.assert_array_equal(graph.to_users.edges, np.zeros(4))
    np.testing.assert_array_equal(graph.to_items.edges, np.zeros(4))
