"""Sums over neighbours and their cosines, against dense NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from mmssl_jax.graph.neighbour_sums import neighbour_cosines, neighbour_sums
from tests.dense import cosine, numeric_gradient
from tests.problems import assert_close, precision

RNG = np.random.default_rng(0)
X, WEIGHTS = RNG.normal(size=(7, 3)), RNG.random((7, 4))
ITEMS = RNG.integers(7, size=(7, 4))  # some name one item twice, or themselves
X[2] = 0.0
PULL = RNG.normal(size=(7, 3))


def matrix_of(weights):
    matrix = np.zeros((7, 7))
    for i, k in np.ndindex(ITEMS.shape):
        matrix[i, ITEMS[i, k]] += weights[i, k]
    return matrix


def test_sums_and_their_gradients_are_those_of_a_matrix():
    with precision("float64"):
        x, weights, pull, items = map(jnp.asarray, (X, WEIGHTS, PULL, ITEMS))
        np.testing.assert_allclose(neighbour_sums(x, items, weights), matrix_of(WEIGHTS) @ X)
        found = jax.grad(lambda xw: jnp.sum(pull * neighbour_sums(xw[0], items, xw[1])))(
            (x, weights)
        )
    dense = numeric_gradient(lambda xw: np.sum(PULL * (matrix_of(xw[1]) @ xw[0])), (X, WEIGHTS))
    assert_close(found, dense, 1e-8)


def test_cosines_are_those_of_pairs_and_pass_gradients_on():
    def dense(x):
        return np.array([[cosine(x[i], x[j]) for j in row] for i, row in enumerate(ITEMS)])

    with precision("float64"):
        x, weights, items = map(jnp.asarray, (X, WEIGHTS, ITEMS))
        np.testing.assert_allclose(neighbour_cosines(x, items), dense(X), atol=1e-12)
        found = jax.grad(lambda x: jnp.sum(weights * neighbour_cosines(x, items)))(x)
    assert not np.any(found[2])  # a row of zeros has none
    # Whatever little differs from a row of zeros has another cosine at once: it stays out.
    others = np.arange(7) != 2
    numeric = numeric_gradient(lambda x: np.sum(WEIGHTS * dense(x)), X)
    assert_close(found[others], numeric[others], 1e-6)
