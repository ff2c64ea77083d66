import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.methods.mmssl.fast import edge_chunks
from mmssl_jax.methods.mmssl.fast import kernel_products as module
from mmssl_jax.methods.mmssl.fast.kernel_products import kernel_products
from mmssl_jax.precision import rounded
from tests.problems import (
    N_ITEMS,
    N_USERS,
    PRECISIONS,
    TOLERANCE,
    assert_close,
    edges_of_batch,
    interaction_matrix,
    precision,
)

MATRIX = interaction_matrix()
USERS = np.random.default_rng(0).permutation(N_USERS)


def dense_products(kernel, items, weights, edges):
    def rows(weights):
        nothing = jnp.zeros((N_USERS, N_ITEMS), weights.dtype)
        return nothing.at[edges.row, edges.item].add(jnp.where(edges.mask, weights, 0.0))

    of_factors = jnp.concatenate(items, axis=1).T @ kernel
    return of_factors, tuple(rows(w) @ kernel for w in weights), kernel.T @ kernel


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("edges_at_once", [5, 1024])
@pytest.mark.parametrize("items_at_once", [5, 2**14])
def test_products_and_gradients_are_those_of_dense_rows(
    items_at_once, edges_at_once, name, monkeypatch
):
    assert N_ITEMS % 5  # the last block of items overlaps the one before
    monkeypatch.setattr(module, "ITEMS_AT_ONCE", items_at_once)
    monkeypatch.setattr(edge_chunks, "vectors_at_once", lambda width: edges_at_once)
    rng = np.random.default_rng(1)
    with precision(name) as dtype:
        edges = edges_of_batch(MATRIX, USERS, padding=0)
        assert len(edges.row) % 5  # the last chunk overlaps the one before

        def draw(*shape):
            return jnp.asarray(rng.normal(size=shape), dtype)

        items, weights = [draw(N_ITEMS, 3), draw(N_ITEMS, 1)], [draw(len(edges.row)) for _ in "abc"]
        kernel, half = draw(N_ITEMS, 5), draw(5, 5)
        pull = draw(4, 5), tuple(draw(N_USERS, 5) for _ in weights), half + half.T

        def structured(kernel, items, weights):
            return tuple(kernel_products(kernel, items, weights, edges, with_gram=True))

        def dense(kernel, items, weights):
            return dense_products(kernel, items, weights, edges)

        products, transpose = jax.vjp(structured, kernel, items, weights)
        expected, expected_transpose = jax.vjp(dense, kernel, items, weights)
        gradients, expected_gradients = transpose(pull), expected_transpose(pull)

    assert_close(products, expected, TOLERANCE[name])
    assert_close(gradients, expected_gradients, TOLERANCE[name])


def product_at_edges(kernel, weights, edges):
    (product,) = kernel_products(kernel, [], [weights], edges).at_edges
    return product


def test_weights_of_padding_are_never_read():
    edges = edges_of_batch(MATRIX, USERS, padding=7)
    weights = jnp.where(edges.mask, 1.0, jnp.nan)

    product = product_at_edges(jnp.eye(N_ITEMS), weights, edges)

    np.testing.assert_array_equal(product, MATRIX[USERS])


def test_no_edges_give_zeros():
    edges = edges_of_batch(MATRIX, np.array([0, 0]))
    kernel = jnp.ones((N_ITEMS, 3))

    product, gradient = jax.value_and_grad(
        lambda kernel: jnp.sum(product_at_edges(kernel, jnp.ones(5), edges))
    )(kernel)

    assert float(product) == 0
    np.testing.assert_array_equal(gradient, np.zeros((N_ITEMS, 3)))


def test_a_gram_matrix_that_nobody_asks_for_is_none():
    edges = edges_of_batch(MATRIX, USERS)
    items = [jnp.ones((N_ITEMS, 2))]

    products = kernel_products(jnp.ones((N_ITEMS, 3)), items, [], edges)

    assert products.gram is None
    np.testing.assert_array_equal(products.factors, np.full((2, 3), N_ITEMS))


def test_products_are_of_operands_at_the_precision_asked_for():
    rng = np.random.default_rng(0)
    kernel, items = (jnp.asarray(rng.normal(size=(N_ITEMS, w)), jnp.float32) for w in (600, 3))
    edges = edges_of_batch(MATRIX, USERS)

    products = kernel_products(kernel, [items], [], edges, True, "bfloat16")

    low_kernel, low_items = (np.asarray(rounded(x, "bfloat16"), float) for x in (kernel, items))
    assert_close(products.gram, low_kernel.T @ low_kernel, 1e-6)
    assert_close(products.factors, low_items.T @ low_kernel, 1e-6)
    assert np.abs(products.gram - kernel.T @ kernel).max() > 1e-2
