import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.graph.rows import batch_edges, interaction_rows, most_batch_edges
from mmssl_jax.methods.mmssl.state import problem_sizes
from mmssl_jax.sampling import sample_batch
from tests.problems import (
    N_ITEMS,
    N_USERS,
    edge_array,
    interaction_matrix,
    rows_of,
    step_config,
    step_dataset,
)


def test_rows_hold_each_users_items_in_ascending_order():
    matrix = interaction_matrix()
    shuffled = np.random.default_rng(0).permutation(edge_array(matrix))

    rows = interaction_rows(shuffled, N_USERS, N_ITEMS)

    for user in range(N_USERS):
        own = rows.items[rows.start[user] : rows.start[user + 1]]
        np.testing.assert_array_equal(own, np.flatnonzero(matrix[user]))
    np.testing.assert_array_equal(rows.users, edge_array(matrix)[:, 0])


def test_samplers_have_a_positive_and_a_negative():
    matrix = interaction_matrix()
    matrix[3] = 1

    np.testing.assert_array_equal(rows_of(matrix).samplers, [1, 2, 4, 5, 6, 7, 8])


@pytest.mark.parametrize("value", [0, 1])
def test_nothing_to_rank_is_an_error(value):
    with pytest.raises(ValueError, match="nothing to rank"):
        interaction_rows(edge_array(np.full((3, 4), value)), 3, 4)


@pytest.mark.parametrize(
    "users",
    [[3, 1, 5, 2], [0, 4, 0, 7], [0, 0], [6, 6, 6], [1, 0]],
    ids=["plain", "without interactions", "nobody has any", "repeated", "last is empty"],
)
def test_batch_edges_list_the_batchs_rows(users):
    matrix = interaction_matrix()
    n_edges = matrix[users].sum()

    edges = batch_edges(rows_of(matrix), jnp.asarray(users, jnp.int32), int(n_edges) + 6)

    assert int(edges.mask.sum()) == n_edges
    assert np.all(edges.mask[:n_edges])
    dense = np.zeros((len(users), N_ITEMS), int)
    np.add.at(dense, (edges.row[:n_edges], edges.item[:n_edges]), 1)
    np.testing.assert_array_equal(dense, matrix[users])
    np.testing.assert_array_equal(edges.row[n_edges:], len(users) - 1)
    slots = np.concatenate([np.arange(matrix[user].sum()) for user in users])
    np.testing.assert_array_equal(edges.slot[:n_edges], slots)
    np.testing.assert_array_equal(edges.degree, matrix[users].sum(axis=1))
    assert edges.n_rows == len(users)
    assert np.all(np.diff(edges.row) >= 0)


DEGREES = np.array([0, 5, 2, 9, 1, 1])


@pytest.mark.parametrize(
    ("batch_size", "n_devices", "by_interaction", "bound"),
    [
        (2, 1, False, 14),
        (4, 2, False, 14),
        (5, 1, False, 18),
        (6, 1, False, 54),  # with replacement: six times the most active user
        (8, 4, False, 18),  # a share of 2 may hold that user twice
        (3, 1, True, 27),
        (11, 1, True, 9 * 9 + 2 * 5),
        (18, 1, True, 81 + 25 + 4 + 2),
        (20, 2, True, 90),  # more than there are interactions
    ],
)
def test_most_batch_edges_is_the_tight_bound(batch_size, n_devices, by_interaction, bound):
    assert most_batch_edges(DEGREES, batch_size, n_devices, by_interaction) == bound


@pytest.mark.parametrize("by", ["user", "interaction"])
@pytest.mark.parametrize(("batch_size", "n_devices"), [(4, 1), (16, 4)])
def test_no_share_of_a_drawn_batch_exceeds_its_size(by, batch_size, n_devices):
    config = step_config(sampling__by=by, sampling__batch_size=batch_size)
    limit = problem_sizes(step_dataset(), config, n_devices).batch_edges
    matrix = interaction_matrix()
    rows, keys = rows_of(matrix), jax.random.split(jax.random.key(0), 200)

    users = jax.vmap(lambda key: sample_batch(key, rows, batch_size, N_ITEMS, by).users)(keys)

    of_shares = matrix.sum(axis=1)[np.asarray(users)].reshape(-1, batch_size // n_devices)
    assert of_shares.sum(axis=1).max() <= limit
