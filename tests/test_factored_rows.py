import jax.numpy as jnp
import numpy as np

from mmssl_jax.model.factored_rows import FactoredRows, project_rows
from tests.problems import N_ITEMS, N_USERS, edges_of_batch, interaction_matrix

MATRIX = interaction_matrix()
USERS = np.random.default_rng(0).permutation(N_USERS)


def test_blocks_of_every_make_stand_one_after_another():
    rng, edges = np.random.default_rng(1), edges_of_batch(MATRIX, USERS)
    kernel = jnp.asarray(rng.normal(size=(N_ITEMS, 4)), jnp.float32)
    users, items = rng.normal(size=(2, N_USERS, 3)), rng.normal(size=(2, N_ITEMS, 3))
    present, rest = edges.mask.astype(jnp.float32), rng.normal(size=(N_USERS, 4))
    blocks = [
        FactoredRows(users[0], items[0], 2 * present),
        FactoredRows(edge_weights=-present, rest=rest),
        FactoredRows(users[1], items[1]),
        FactoredRows(),
    ]

    product = project_rows(
        [FactoredRows(*map(as_array, b)) for b in blocks], edges, kernel, N_USERS
    )

    observed, kernel = MATRIX[USERS], np.asarray(kernel)
    expected = [
        (users[0] @ items[0].T + 2 * observed) @ kernel,
        rest - observed @ kernel,
        users[1] @ items[1].T @ kernel,
        np.zeros((N_USERS, 4)),
    ]
    np.testing.assert_allclose(product, np.concatenate(expected), rtol=1e-4, atol=1e-4)


def test_a_scaled_row_has_all_its_parts_scaled():
    edges = edges_of_batch(MATRIX, USERS)
    rng, factor = np.random.default_rng(2), jnp.arange(N_USERS) - 2.0
    kernel = jnp.eye(N_ITEMS)
    rows = FactoredRows(
        as_array(rng.normal(size=(N_USERS, 3))),
        as_array(rng.normal(size=(N_ITEMS, 3))),
        as_array(rng.normal(size=len(edges.row))),
        as_array(rng.normal(size=(N_USERS, N_ITEMS))),
    )

    whole = project_rows([rows], edges, kernel, N_USERS)
    scaled = project_rows([rows.scaled(factor, edges)], edges, kernel, N_USERS)

    np.testing.assert_allclose(scaled, factor[:, None] * whole, rtol=1e-4, atol=1e-4)


def as_array(values):
    return None if values is None else jnp.asarray(values, jnp.float32)
