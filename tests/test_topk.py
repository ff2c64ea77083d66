import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.graph.rows import RowPairs
from mmssl_jax.graph.topk import top_k_unseen

NOTHING_SEEN = RowPairs(jnp.zeros(0, int), jnp.zeros(0, int), jnp.zeros(0, bool))


@pytest.mark.parametrize("block_items", [4, 9, 100])
def test_lists_are_the_best_unseen_items_in_order(block_items):
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(7, 5)), rng.normal(size=(23, 5))
    seen = np.unique(rng.integers((7, 23), size=(60, 2)), axis=0)

    scores, listed = top_k_unseen(
        jnp.asarray(users, jnp.float32),
        jnp.asarray(items, jnp.float32),
        RowPairs(jnp.asarray(seen[:, 0]), jnp.asarray(seen[:, 1]), jnp.ones(len(seen), bool)),
        6,
        block_items,
    )

    expected = users @ items.T
    expected[seen[:, 0], seen[:, 1]] = -np.inf
    order = np.argsort(-expected, axis=1)[:, :6]
    np.testing.assert_array_equal(listed, order)
    np.testing.assert_allclose(scores, np.take_along_axis(expected, order, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block_items", [2, 100])
def test_padding_and_repeated_pairs_change_nothing(block_items):
    users, items = jnp.ones((2, 1)), jnp.asarray([[3.0], [1.0], [2.0]])
    rows, seen = jnp.asarray([0, 0, 0, 1]), jnp.asarray([0, 0, 2, 0])
    pairs = RowPairs(rows, seen, jnp.asarray([True, True, False, False]))

    scores, listed = top_k_unseen(users, items, pairs, 2, block_items)

    np.testing.assert_array_equal(listed, [[2, 1], [0, 2]])
    np.testing.assert_array_equal(scores, [[2.0, 1.0], [3.0, 2.0]])


@pytest.mark.parametrize("block_items", [2, 100])
def test_a_list_that_runs_out_of_unseen_items_ends_with_minus_infinity(block_items):
    rows, seen = jnp.zeros(2, int), jnp.asarray([0, 1])

    scores, listed = top_k_unseen(
        jnp.ones((1, 1)),
        jnp.asarray([[3.0], [1.0], [2.0]]),
        RowPairs(rows, seen, jnp.ones(2, bool)),
        3,
        block_items,
    )

    assert listed[0, 0] == 2
    np.testing.assert_array_equal(scores, [[2.0, -np.inf, -np.inf]])


@pytest.mark.parametrize("block_items", [1, 2, 100])
def test_equal_scores_are_ordered_by_item(block_items):
    _, listed = top_k_unseen(jnp.ones((1, 1)), jnp.ones((5, 1)), NOTHING_SEEN, 3, block_items)

    np.testing.assert_array_equal(listed, [[0, 1, 2]])


def test_bfloat16_vectors_are_scored_in_float32():
    # 257 needs 9 bits: bfloat16 scores would tie the two items, and the first would win.
    users = jnp.asarray([[1.0, 1.0]], jnp.bfloat16)
    items = jnp.asarray([[256.0, 0.0], [256.0, 1.0]], jnp.bfloat16)

    scores, listed = top_k_unseen(users, items, NOTHING_SEEN, 1)

    assert scores.dtype == jnp.float32
    assert (float(scores[0, 0]), int(listed[0, 0])) == (257.0, 1)


@pytest.mark.parametrize("k", [0, 4])
def test_k_outside_the_catalogue_is_refused(k):
    with pytest.raises(ValueError, match=f"k is {k}.*1 <= k <= 3"):
        top_k_unseen(jnp.ones((1, 1)), jnp.ones((3, 1)), NOTHING_SEEN, k)


def test_it_traces_with_k_static():
    compiled = jax.jit(top_k_unseen, static_argnames="k")
    scores, listed = compiled(jnp.ones((2, 1)), jnp.ones((3, 1)), NOTHING_SEEN, k=2)
    assert scores.shape == listed.shape == (2, 2)
