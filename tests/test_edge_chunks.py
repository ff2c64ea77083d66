import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.methods.mmssl.fast import edge_chunks as module
from mmssl_jax.methods.mmssl.fast.edge_chunks import edge_scores, fold_edges
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
AT_ONCE = [1, 5, 1000]  # with 5 the last chunk overlaps the one before


@pytest.fixture(params=AT_ONCE)
def at_once(request, monkeypatch):
    monkeypatch.setattr(module, "vectors_at_once", lambda width: request.param)
    return request.param


@pytest.mark.parametrize("padding", [0, 5, 50])
def test_every_real_edge_counts_once_and_no_padding_is_visited_in_vain(at_once, padding):
    edges = edges_of_batch(MATRIX, USERS, padding)

    def visit(carry, chunk):
        counted, n_chunks = carry
        return counted.at[chunk.row, chunk.item].add(chunk.counts.astype(int)), n_chunks + 1

    start = jnp.zeros((N_USERS, N_ITEMS), int), 0
    counted, n_chunks = jax.jit(lambda edges: fold_edges(edges, 3, start, visit))(edges)

    np.testing.assert_array_equal(counted, MATRIX[USERS])
    assert n_chunks == -(-MATRIX.sum() // min(at_once, len(edges.row)))


def test_what_is_put_in_a_chunks_place_stands_there(at_once):
    edges = edges_of_batch(MATRIX, USERS, padding=3)
    assert at_once != 5 or -(-MATRIX.sum() // 5) * 5 > len(edges.row)
    values = jnp.arange(len(edges.row), dtype=jnp.float32)

    doubled = fold_edges(
        edges, 3, jnp.zeros_like(values), lambda out, chunk: chunk.put(out, 2.0 * chunk.item)
    )

    real = np.asarray(edges.mask)
    np.testing.assert_array_equal(np.asarray(doubled)[real], 2 * np.asarray(edges.item)[real])


@pytest.mark.parametrize("name", TOLERANCE)
def test_scores_and_their_gradients_are_those_of_all_pairs(at_once, name):
    rng = np.random.default_rng(1)
    with precision(name) as dtype:
        edges = edges_of_batch(MATRIX, USERS, padding=3)
        users, items, pull = (
            jnp.asarray(rng.normal(size=shape), dtype)
            for shape in ((N_USERS, 4), (N_ITEMS, 4), edges.row.shape)
        )

        def of_all_pairs(users, items):
            return jnp.where(edges.mask, (users @ items.T)[edges.row, edges.item], 0.0)

        scores, transpose = jax.vjp(lambda *x: edge_scores(*x, edges), users, items)
        expected, expected_transpose = jax.vjp(of_all_pairs, users, items)

        assert_close(scores, expected, TOLERANCE[name])
        assert_close(transpose(pull), expected_transpose(pull), TOLERANCE[name])


def test_a_batch_without_edges_has_none_to_score(at_once):
    edges = edges_of_batch(MATRIX, np.array([0, 0]), padding=0)  # user 0 has none
    users, items = jnp.ones((2, 3)), jnp.ones((N_ITEMS, 3))

    scores, transpose = jax.vjp(lambda *x: edge_scores(*x, edges), users, items)

    assert scores.shape == (0,)
    assert all(not np.any(gradient) for gradient in transpose(scores))
