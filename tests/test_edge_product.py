import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.model import edge_product as module
from mmssl_jax.model.edge_product import edge_products
from tests.problems import (
    N_ITEMS,
    N_USERS,
    TOLERANCE,
    assert_close,
    edges_of_batch,
    interaction_matrix,
    precision,
)

MATRIX = interaction_matrix()
USERS = np.random.default_rng(0).permutation(N_USERS)


def dense_rows(weights, edges):
    rows = jnp.zeros((N_USERS, N_ITEMS, weights.shape[1]), weights.dtype)
    return rows.at[edges.row, edges.item].add(jnp.where(edges.mask[:, None], weights, 0.0))


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("chunk", [4, 1024], ids=["many chunks", "one chunk"])
def test_product_and_gradients_are_those_of_dense_rows(chunk, name, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    rng = np.random.default_rng(1)
    with precision(name) as dtype:
        edges = edges_of_batch(MATRIX, USERS)
        weights = jnp.asarray(rng.normal(size=(len(edges.row), 3)), dtype)
        kernel = jnp.asarray(rng.normal(size=(N_ITEMS, 5)), dtype)
        pull = jnp.asarray(rng.normal(size=(N_USERS, 3, 5)), dtype)

        def structured(weights, kernel):
            return edge_products(weights, edges, kernel, N_USERS)

        def dense(weights, kernel):
            return jnp.einsum("bir,ih->brh", dense_rows(weights, edges), kernel)

        product, transpose = jax.vjp(structured, weights, kernel)
        expected, expected_transpose = jax.vjp(dense, weights, kernel)
        gradients, expected_gradients = transpose(pull), expected_transpose(pull)

    assert_close(product, expected, TOLERANCE[name])
    assert_close(gradients, expected_gradients, TOLERANCE[name])


def test_weights_of_padding_are_never_read():
    edges = edges_of_batch(MATRIX, USERS, padding=7)
    weights = jnp.where(edges.mask, 1.0, jnp.nan)[:, None]

    product = edge_products(weights, edges, jnp.eye(N_ITEMS), N_USERS)

    np.testing.assert_array_equal(product[:, 0], MATRIX[USERS])


def test_no_edges_give_zeros():
    edges = edges_of_batch(MATRIX, np.array([0, 0]))
    kernel = jnp.ones((N_ITEMS, 3))

    product, gradient = jax.value_and_grad(
        lambda kernel: jnp.sum(edge_products(jnp.ones((5, 1)), edges, kernel, 2))
    )(kernel)

    assert float(product) == 0
    np.testing.assert_array_equal(gradient, np.zeros((N_ITEMS, 3)))
