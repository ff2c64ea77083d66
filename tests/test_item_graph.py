"""The nearest items by features, and sparse matrices, against dense NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import DataConfig
from mmssl_jax.graph import item_graph
from mmssl_jax.graph.item_graph import (
    centred,
    item_presence,
    mean_weights,
    modality_neighbours,
    nearest_items,
    nearest_of_queries,
    neighbour_matrix,
    rewired,
    symmetric_weights,
)
from mmssl_jax.graph.propagate import propagate
from mmssl_jax.graph.sparse import sparse_matrix
from tests.problems import partial_dataset

N_ITEMS, WIDTH, K = 23, 5, 4
LACKING = [3, 17]


def features() -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(N_ITEMS, WIDTH)).astype(np.float32)
    rows[LACKING] = 0.0
    return rows


def cosines(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    norms = [np.maximum(np.linalg.norm(x, axis=1), 1e-12) for x in (rows, others)]
    return rows @ others.T / norms[0][:, None] / norms[1]


@pytest.fixture(params=["one block", "several"], autouse=True)
def blocks(request, monkeypatch):
    if request.param == "several":
        monkeypatch.setattr(item_graph, "ROWS_AT_ONCE", 5)
        monkeypatch.setattr(item_graph, "ITEMS_AT_ONCE", 7)


@pytest.mark.parametrize("itself", [True, False])
def test_the_nearest_are_those_of_the_largest_cosine(itself):
    scores = cosines(features(), features()).astype(float)
    scores[:, LACKING] = -np.inf
    np.fill_diagonal(scores, np.inf if itself else -np.inf)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    found = nearest_items(jnp.asarray(features()), K, itself)
    whole = np.setdiff1d(np.arange(N_ITEMS), LACKING)
    np.testing.assert_array_equal(found.items[whole], expected[whole])
    assert np.all(found.found[whole])
    assert not np.any(found.found[np.array(LACKING)])  # no neighbours
    assert not np.any(np.isin(found.items[whole], LACKING))  # and nobody's
    values = np.minimum(np.take_along_axis(scores, expected, axis=1)[whole], 1.0)
    np.testing.assert_allclose(found.cosine[whole], values, atol=1e-6)


def test_queries_look_among_the_items_alone():
    queries = np.random.default_rng(1).normal(size=(6, WIDTH)).astype(np.float32)
    queries[2] = 0.0
    scores = cosines(queries, features())
    scores[:, LACKING] = -np.inf
    found = nearest_of_queries(jnp.asarray(queries), jnp.asarray(features()), K)
    known = np.delete(np.arange(6), 2)
    expected = np.argsort(-scores, axis=1)[:, :K]
    np.testing.assert_array_equal(found.items[known], expected[known])
    assert not np.any(found.found[2])


def test_fewer_items_than_neighbours_are_all_of_them():
    found = nearest_items(jnp.asarray(features()), 100, True)
    whole = np.setdiff1d(np.arange(N_ITEMS), LACKING)
    assert found.items.shape == (N_ITEMS, N_ITEMS)
    assert np.all(np.sum(found.found[whole], axis=1) == len(whole))


def dense(found, weights) -> np.ndarray:
    matrix = np.zeros((N_ITEMS, N_ITEMS))
    for row, (items, kept, values) in enumerate(
        zip(found.items, found.found, weights, strict=True)
    ):
        for item, is_kept, value in zip(items, kept, values, strict=True):
            matrix[row, item] = value if is_kept else 0.0
    return matrix


def test_weights_are_those_of_their_formulas():
    found = nearest_items(jnp.asarray(features()), K, True)
    mean = dense(found, mean_weights(found))
    sums = np.ones(N_ITEMS)
    sums[LACKING] = 0.0
    np.testing.assert_allclose(mean.sum(axis=1), sums, atol=1e-6)
    values = np.abs(found.cosine)
    degree = dense(found, values).sum(axis=1)
    inverse = np.where(degree > 0, np.maximum(degree, 1e-9) ** -0.5, 0.0)
    expected = inverse[:, None] * dense(found, values) * inverse
    symmetric = dense(found, symmetric_weights(found, jnp.asarray(values)))
    np.testing.assert_allclose(symmetric, expected, atol=1e-6)


def test_a_matrix_and_its_transpose_multiply():
    found = nearest_items(jnp.asarray(features()), K, False)
    matrix, x = neighbour_matrix(found, found.cosine), jnp.asarray(features())
    expected = dense(found, found.cosine)
    np.testing.assert_allclose(propagate(matrix.to_rows, x, N_ITEMS), expected @ x, atol=1e-5)
    np.testing.assert_allclose(propagate(matrix.to_columns, x, N_ITEMS), expected.T @ x, atol=1e-5)


def test_entries_of_one_place_add_up():
    matrix = sparse_matrix(jnp.array([1, 0, 1]), jnp.array([2, 0, 2]), jnp.array([2.0, 5.0, 3.0]))
    product = propagate(matrix.to_rows, jnp.eye(3), 2)
    np.testing.assert_array_equal(product, [[5.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
    product = propagate(matrix.to_columns, jnp.eye(2), 3)
    np.testing.assert_array_equal(product, [[5.0, 0.0], [0.0, 0.0], [0.0, 5.0]])


def test_centring_is_over_those_who_have_it():
    present = np.ones(N_ITEMS, bool)
    present[LACKING] = False
    rows, mean = centred(jnp.asarray(features()) + 3.0, jnp.asarray(present))
    np.testing.assert_allclose(mean, (features() + 3.0)[present].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(np.asarray(rows)[present].mean(axis=0), 0.0, atol=1e-6)
    assert not np.any(np.asarray(rows)[~present])


def test_rewiring_keeps_both_degrees_and_nothing_else():
    found = nearest_items(jnp.asarray(features()), K, True)
    other = rewired(found, np.random.default_rng(0), True)
    kept = np.asarray(found.found)
    before, after = np.asarray(found.items), np.asarray(other.items)
    np.testing.assert_array_equal(np.sort(before[kept]), np.sort(after[kept]))
    np.testing.assert_array_equal(before[kept[:, 0], 0], after[kept[:, 0], 0])  # the items
    assert np.mean(before[kept] == after[kept]) < 0.5


def test_modalities_have_neighbours_of_their_own():
    dataset = partial_dataset()
    found = modality_neighbours(dataset, K, False, DataConfig())
    again = modality_neighbours(dataset, K, False, DataConfig(neighbours="random", seed=3))
    assert list(found) == list(dataset.modalities)
    for modality, near in found.items():
        present = np.asarray(item_presence(dataset)[modality])
        np.testing.assert_array_equal(np.any(near.found, axis=1), present)
        assert np.all(present[near.items[present]])
        assert not np.array_equal(near.items, again[modality].items)


def test_constant_features_have_no_neighbours():
    constant = jnp.tile(jnp.array([[30.1, -7.3, 0.2]]), (N_ITEMS, 1))
    rows, _ = centred(constant, jnp.ones(N_ITEMS, bool))
    assert not np.any(rows)
    assert not np.any(nearest_items(rows, K, True).found)
