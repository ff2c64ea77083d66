import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.methods.mmssl.game.factored_rows import FactoredRows, project_rows
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
WIDTH = 4


def blocks_of_every_make(edges, dtype):
    """Rows of all parts, of two, of factors alone, and of none; weights at the padding too."""
    rng = np.random.default_rng(1)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    return [
        FactoredRows(
            edges,
            ((draw(N_USERS, 3), draw(N_ITEMS, 3)),),
            draw(len(edges.row)),
            draw(N_USERS, WIDTH),
        ),
        FactoredRows(edges, edge_weights=draw(len(edges.row)), projected=draw(N_USERS, WIDTH)),
        FactoredRows(
            edges, ((draw(N_USERS, 3), draw(N_ITEMS, 3)), (draw(N_USERS, 1), draw(N_ITEMS, 1)))
        ),
        FactoredRows(edges),
    ]


def project_densely(blocks, kernel):
    def product(rows):
        edges = rows.edges
        whole = jnp.zeros((N_USERS, N_ITEMS), kernel.dtype)
        for users, items in rows.factors:
            whole += users @ items.T
        if rows.edge_weights is not None:
            weights = jnp.where(edges.mask, rows.edge_weights, 0.0)
            whole = whole.at[edges.row, edges.item].add(weights)
        known = 0.0 if rows.projected is None else rows.projected
        return whole @ kernel + known

    return jnp.concatenate([product(rows) for rows in blocks])


@pytest.mark.parametrize("name", PRECISIONS)
def test_product_and_gradients_are_those_of_dense_rows(name):
    with precision(name) as dtype:
        edges = edges_of_batch(MATRIX, USERS, padding=7)
        blocks = blocks_of_every_make(edges, dtype)
        kernel = jnp.asarray(np.random.default_rng(2).normal(size=(N_ITEMS, WIDTH)), dtype)
        pull = np.random.default_rng(3).normal(size=(len(blocks) * N_USERS, WIDTH))

        def with_gradients(project):
            product, transpose = jax.vjp(project, blocks, kernel)
            of_blocks, of_kernel = transpose(jnp.asarray(pull, product.dtype))
            # Edges have no gradient.
            return product, [rows._replace(edges=None) for rows in of_blocks], of_kernel

        actual = with_gradients(project_rows)
        expected = with_gradients(project_densely)

    assert_close(actual, expected, TOLERANCE[name])


def test_scaled_rows_have_all_their_parts_scaled():
    edges, kernel = edges_of_batch(MATRIX, USERS, padding=7), jnp.ones((N_ITEMS, WIDTH))
    rows, factor = blocks_of_every_make(edges, jnp.float32)[0], jnp.arange(N_USERS) - 2.0

    whole = project_rows([rows], kernel)
    scaled = project_rows([rows.scaled(factor)], kernel)

    assert_close(scaled, factor[:, None] * whole, 1e-5)


def test_parts_are_added_where_they_are_and_where_they_are_not():
    edges, kernel = edges_of_batch(MATRIX, USERS), jnp.ones((N_ITEMS, WIDTH))
    first, second, third, nothing = blocks_of_every_make(edges, jnp.float32)

    for rows, others in ((first, second), (third, second), (first, third)):
        apart = project_rows([rows, others], kernel)
        together = project_rows([rows.plus(others)], kernel)
        assert_close(together, sum(jnp.split(apart, 2)), 1e-5)
    assert third.plus(nothing) == third
