import jax
import numpy as np
import pytest
from scipy.stats import chisquare

from mmssl_jax.sampling import distinct_places, sample_batch, sample_negatives
from tests.problems import N_ITEMS, interaction_matrix, rows_of

MATRIX = interaction_matrix()
MATRIX[3] = 1
MATRIX[3, 11] = 0  # all items but one
SAMPLERS = np.flatnonzero(MATRIX.sum(axis=1))


def draw_batches(by, batch_size, n_batches, seed=0):
    rows, keys = rows_of(MATRIX), jax.random.split(jax.random.key(seed), n_batches)
    draw = jax.jit(jax.vmap(lambda key: sample_batch(key, rows, batch_size, N_ITEMS, by)))
    return jax.tree.map(np.asarray, draw(keys))


@pytest.fixture(scope="module")
def by_user():
    return draw_batches("user", 4, 10_000)


@pytest.fixture(scope="module")
def by_interaction():
    return draw_batches("interaction", 4, 10_000)


def assert_follows(counts, expected_shares):
    """Chi-square test; with fixed seeds it either always passes or always fails."""
    expected = expected_shares / expected_shares.sum() * counts.sum()
    assert np.all(counts[expected == 0] == 0)
    if np.sum(expected > 0) > 1:
        assert chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-3


def counts_by_user(users, items):
    counts = np.zeros(MATRIX.shape, int)
    np.add.at(counts, (users.ravel(), items.ravel()), 1)
    return counts


def test_users_are_uniform_among_those_with_interactions(by_user):
    counts = np.bincount(by_user.users.ravel(), minlength=len(MATRIX))
    assert_follows(counts, (MATRIX.sum(axis=1) > 0).astype(float))


def test_users_are_unique_while_there_are_enough(by_user):
    assert all(len(set(users)) == len(users) for users in by_user.users.tolist())
    everybody = draw_batches("user", len(SAMPLERS), 20).users
    np.testing.assert_array_equal(np.sort(everybody, axis=1), np.tile(SAMPLERS, (20, 1)))


def test_a_batch_of_more_users_than_there_are_repeats_some():
    users = draw_batches("user", 20, 500).users
    assert_follows(np.bincount(users.ravel(), minlength=len(MATRIX)), MATRIX.sum(axis=1) > 0)


@pytest.mark.parametrize("user", SAMPLERS)
def test_positives_are_uniform_over_a_users_own(by_user, user):
    counts = counts_by_user(by_user.users, by_user.positives)
    assert_follows(counts[user], MATRIX[user].astype(float))


@pytest.mark.parametrize("user", SAMPLERS)
def test_negatives_are_uniform_over_the_other_items(by_user, user):
    counts = counts_by_user(by_user.users, by_user.negatives)
    assert_follows(counts[user], 1.0 - MATRIX[user])


def test_interactions_are_uniform_so_users_come_by_degree(by_interaction):
    counts = counts_by_user(by_interaction.users, by_interaction.positives)
    assert_follows(counts.sum(axis=1), MATRIX.sum(axis=1).astype(float))
    assert_follows(counts.ravel(), MATRIX.ravel().astype(float))


def test_interactions_are_unique_while_there_are_enough(by_interaction):
    pairs = by_interaction.users * N_ITEMS + by_interaction.positives
    assert all(len(set(batch)) == len(batch) for batch in pairs.tolist())


@pytest.mark.parametrize("batches", ["by_user", "by_interaction"])
def test_a_negative_is_never_a_training_positive(batches, request):
    batch = request.getfixturevalue(batches)
    assert np.all(MATRIX[batch.users, batch.positives] == 1)
    assert np.all(MATRIX[batch.users, batch.negatives] == 0)
    assert np.all(batch.negatives[batch.users == 3] == 11)


@pytest.mark.parametrize("n_items", [2, 3, 8])
def test_every_row_of_items_finds_exactly_its_negatives(n_items):
    # All subsets of the items, but none and all.
    codes = np.arange(1, 2**n_items - 1)
    matrix = (codes[:, None] >> np.arange(n_items)) & 1
    rows, keys = rows_of(matrix), jax.random.split(jax.random.key(1), 120)
    users = rows.samplers

    draw = jax.jit(jax.vmap(lambda key: sample_negatives(key, rows, users, n_items)))
    negatives = np.asarray(draw(keys))

    found = np.zeros_like(matrix)
    found[np.arange(len(matrix))[None, :], negatives] = 1
    np.testing.assert_array_equal(found, 1 - matrix)


@pytest.mark.parametrize(("n", "count"), [(23, 5), (23, 23), (24, 6), (7, 1), (100003, 4096)])
def test_distinct_places_are_different_and_alike_likely(n, count):
    draw = jax.jit(jax.vmap(lambda key: distinct_places(key, n, count)))
    places = np.asarray(draw(jax.random.split(jax.random.key(1), 2000 if n < 100 else 3)))
    assert places.min() >= 0
    assert places.max() < n
    assert all(len(np.unique(row)) == count for row in places)
    if n < 100:
        often = np.bincount(places.ravel(), minlength=n) / len(places)
        error = np.sqrt(count / n * (1 - count / n) / len(places)) + 1e-9
        assert np.all(np.abs(often - count / n) < 5 * error)
