import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.graph.propagate import propagate
from mmssl_jax.methods.mmssl.learned_graphs import (
    EdgeList,
    Observed,
    RebuildBlocks,
    append_edges,
    edges_per_user,
    empty_edges,
    learned_edges_of_all,
    learned_edges_of_batch,
    learned_graph,
    pad_edges,
    top_k_items,
)
from tests.problems import (
    N_ITEMS,
    N_USERS,
    edges_of_batch,
    interaction_matrix,
    propagation_matrix,
    rows_of,
)


def vectors(seed=0, n_users=N_USERS, n_items=N_ITEMS):
    rng = np.random.default_rng(seed)
    users, items = rng.normal(size=(n_users, 4)), rng.normal(size=(n_items, 4))
    return users.astype(np.float32), items.astype(np.float32)


def best(scores, k):
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize(
    ("k", "k_rate", "n_items", "expected"),
    [(10, None, 500, 10), (10, None, 4, 4), (10, 1e-4, 9_999, 0), (10, 1e-4, 25_000, 2)],
)
def test_edges_per_user(k, k_rate, n_items, expected):
    assert edges_per_user(k, k_rate, n_items) == expected


@pytest.mark.parametrize("block_items", [5, N_ITEMS - 1, 100])
@pytest.mark.parametrize("k", [1, 4, N_ITEMS])
def test_top_k_items_are_the_best_in_order(k, block_items):
    users, items = vectors()
    top = top_k_items(jnp.asarray(users), jnp.asarray(items), None, k, block_items)
    np.testing.assert_array_equal(top, best(users @ items.T, k))


@pytest.mark.parametrize("block_items", [6, 100])
def test_top_k_gives_observed_pairs_the_score_zero(block_items):
    users, items = vectors()
    matrix, batch = interaction_matrix(), np.array([2, 5, 0, 8])
    scores = users[batch] @ items.T * (1 - matrix[batch])

    top = top_k_items(
        jnp.asarray(users[batch]), jnp.asarray(items), edges_of_batch(matrix, batch), 5, block_items
    )

    np.testing.assert_array_equal(
        np.take_along_axis(scores, np.asarray(top), 1), -np.sort(-scores)[:, :5]
    )
    observed = np.take_along_axis(matrix[batch], np.asarray(top), 1).astype(bool)
    assert np.all(np.take_along_axis(scores, np.asarray(top), 1)[observed] == 0)


@pytest.mark.parametrize("block", [4, 100])
@pytest.mark.parametrize("masked", [False, True])
def test_learned_edges_of_all_are_every_users_own_top_k(block, masked):
    users, items = vectors(1)
    matrix = interaction_matrix()
    heavy_first = np.sort(matrix.sum(axis=1))[::-1]
    matrix[[2, -1]] = matrix[[-1, 2]]  # the ragged last block repeats its most active user
    scores = users @ items.T * (1 - matrix if masked else 1)

    edges = learned_edges_of_all(
        jnp.asarray(users),
        jnp.asarray(items),
        Observed(rows_of(matrix), jnp.arange(N_USERS)) if masked else None,
        3,
        RebuildBlocks(users=block, items=9, edges=int(heavy_first[:block].sum())),
    )

    assert np.all(edges.mask)
    np.testing.assert_array_equal(edges.users, np.repeat(np.arange(N_USERS), 3))
    learned = np.asarray(edges.items).reshape(N_USERS, 3)
    np.testing.assert_allclose(
        np.take_along_axis(scores, learned, 1), -np.sort(-scores)[:, :3], rtol=1e-5, atol=1e-6
    )


def test_a_user_with_a_zero_vector_gets_no_edge():
    users, items = vectors()
    users[4] = 0

    edges = learned_edges_of_all(
        jnp.asarray(users), jnp.asarray(items), None, 2, RebuildBlocks(4, 100, 0)
    )

    np.testing.assert_array_equal(np.unique(edges.users[~edges.mask]), [4])
    assert int(edges.mask.sum()) == 2 * (N_USERS - 1)


def test_no_learned_edges_for_k_zero():
    users, items = vectors()
    edges = learned_edges_of_all(
        jnp.asarray(users), jnp.asarray(items), None, 0, RebuildBlocks(4, 100, 0)
    )
    assert edges.users.shape == edges.items.shape == edges.mask.shape == (0,)


def test_own_edges_pair_a_user_with_its_items_and_tiled_ones_do_not():
    users, top = jnp.asarray([7, 5]), jnp.asarray([[1, 2, 3], [4, 5, 6]])

    own, tiled = (learned_edges_of_batch(users, top, kind) for kind in ("own", "tiled"))

    pairs = list(zip(own.users.tolist(), own.items.tolist(), strict=True))
    assert pairs == [(7, 1), (7, 2), (7, 3), (5, 4), (5, 5), (5, 6)]
    pairs = list(zip(tiled.users.tolist(), tiled.items.tolist(), strict=True))
    assert pairs == [(7, 1), (5, 2), (7, 3), (5, 4), (7, 5), (5, 6)]
    assert bool(own.mask.all())


def test_tiled_edges_are_right_for_one_edge_per_user():
    users, top = jnp.asarray([7, 5, 6]), jnp.asarray([[1], [4], [2]])
    own, tiled = (learned_edges_of_batch(users, top, kind) for kind in ("own", "tiled"))
    np.testing.assert_array_equal(own.users, tiled.users)


def test_appending_drops_the_oldest_places():
    def run(first, count):
        return EdgeList(
            jnp.arange(first, first + count),
            jnp.arange(first, first + count),
            jnp.ones(count, bool),
        )

    collected = append_edges(append_edges(empty_edges(5), run(10, 3)), run(20, 3))

    np.testing.assert_array_equal(collected.users, [11, 12, 20, 21, 22])
    assert bool(collected.mask.all())
    once = append_edges(empty_edges(5), run(10, 3))
    np.testing.assert_array_equal(once.mask, [False, False, True, True, True])


def test_padding_adds_no_edge():
    matrix = interaction_matrix()
    rows = rows_of(matrix)
    edges = EdgeList(rows.users, rows.items, jnp.ones(len(rows.items), bool))
    items = np.random.default_rng(0).normal(size=(N_ITEMS, 3)).astype(np.float32)

    graph = learned_graph(pad_edges(edges, len(edges.users) + 50), N_USERS, N_ITEMS)

    assert graph.to_users.senders.shape == (len(edges.users) + 50,)
    np.testing.assert_allclose(
        propagate(graph.to_users, jnp.asarray(items), N_USERS),
        propagation_matrix(matrix, "receiver") @ items,
        rtol=1e-5,
        atol=1e-6,
    )
