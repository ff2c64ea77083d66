"""Singular vectors of a normalised graph against numpy.linalg.svd, and its components."""

import jax
import numpy as np
import pytest

from mmssl_jax.graph.spectrum import components_of, spectrum
from tests.problems import edge_array, propagation_matrix

# Users 0 to 19 and items 0 to 29 are one component, then there are two small ones; user 24 and item
# 36 have nothing.
SIZE = 25, 37


def matrix() -> np.ndarray:
    found = np.zeros(SIZE, int)
    found[:20, :30] = np.random.default_rng(0).random((20, 30)) < 0.15
    found[np.arange(20), np.arange(20)] = 1
    found[np.arange(1, 20), np.arange(19)] = 1
    found[19, 19:30] = 1
    found[20:22, 30:33] = [[1, 1, 0], [0, 1, 1]]
    found[22:24, 33:36] = [[1, 1, 1], [1, 0, 0]]
    return found


def singular(dense: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, values, rows = np.linalg.svd(dense)
    return values, rows[: len(values)].T


def test_components_are_those_of_the_graph():
    components = components_of(edge_array(matrix()), *SIZE)
    expected = np.repeat([0, 30, 33, 36], [30, 3, 3, 1])
    np.testing.assert_array_equal(components.of_item, expected)
    degree, q = matrix().sum(axis=0), components.vector
    for name in (0, 30, 33):
        of_this = expected == name
        assert np.sum(q[of_this] ** 2) == pytest.approx(1, rel=1e-5)
        np.testing.assert_allclose(q[of_this] ** 2, degree[of_this] / degree[of_this].sum(), 1e-5)
    assert q[36] == 0


def test_a_long_path_is_one_component():
    users, items = np.arange(400), np.random.default_rng(1).permutation(401)
    edges = np.concatenate(
        [np.column_stack([users, items[:-1]]), np.column_stack([users, items[1:]])]
    )
    assert not components_of(edges, 400, 401).of_item.any()


@pytest.mark.parametrize("rank", [1, 2, 6, 11, 64])
def test_vectors_are_those_of_numpy(rank):
    """Up to the sign, and with all vectors of the value 1 in place of one."""
    dense = propagation_matrix(matrix(), "symmetric")
    values, vectors = singular(dense)
    ones, there = np.sum(values > 1 - 1e-9), np.sum(values > 1e-9)
    assert ones == 3
    found = spectrum(jax.random.key(3), edge_array(matrix()), *SIZE, rank)
    own = np.where(
        np.arange(37)[None, :] == found.components.of_item[:, None],
        found.components.vector[:, None],
        0,
    )
    last = min(ones + rank - 1, there)
    assert rank > 20 or np.all(values[last - 1] - values[last] > 1e-3)
    n = last - ones
    np.testing.assert_allclose(found.values[:n], values[ones:last], rtol=1e-4)
    assert not np.any(found.values[n:])
    assert not np.any(found.vectors[:, n:])
    np.testing.assert_allclose(
        own @ own.T + found.vectors @ found.vectors.T,
        vectors[:, :last] @ vectors[:, :last].T,
        atol=1e-4,
    )
    turned = np.abs(np.sum(np.asarray(found.vectors)[:, :n] * vectors[:, ones:last], axis=0))
    np.testing.assert_allclose(turned, 1, atol=1e-3)


def test_the_same_key_gives_the_same_vectors():
    edges = edge_array(matrix())
    first, second = (spectrum(jax.random.key(3), edges, *SIZE, 5).vectors for _ in range(2))
    np.testing.assert_array_equal(first, second)
