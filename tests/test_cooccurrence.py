"""Blocks of rows of A'A, and the largest entries of each, against dense NumPy."""

import numpy as np
import pytest

from mmssl_jax.graph.cooccurrence import Entries, gram_of, gram_rows, largest_entries
from tests.problems import N_ITEMS, N_USERS, edge_array, interaction_matrix


def test_rows_are_those_of_the_dense_product():
    edges, rng = edge_array(interaction_matrix()), np.random.default_rng(0)
    values = rng.normal(size=len(edges))
    dense = np.zeros((N_USERS, N_ITEMS))
    dense[tuple(edges.T)] = values
    shuffled = rng.permutation(len(edges))
    gram = gram_of(edges[shuffled], values[shuffled], N_USERS, N_ITEMS)
    assert gram.n_items == N_ITEMS
    together = (dense != 0).T.astype(int) @ (dense != 0)
    for first, last in ((0, N_ITEMS), (4, 5), (7, 16), (20, N_ITEMS)):
        rows, columns, found = gram_rows(gram, first, last)
        expected = np.argwhere(together[first:last])  # sorted, and each once
        np.testing.assert_array_equal(np.column_stack([rows, columns]), expected)
        product = dense.T @ dense
        np.testing.assert_allclose(found, product[first:last][rows, columns], atol=1e-12)


def test_items_of_nobody_have_no_entries():
    edges = np.array([[1, 0], [1, 3]])
    gram = gram_of(edges, np.ones(2), 3, 5)
    assert all(len(part) == 0 for part in gram_rows(gram, 1, 3))
    rows, columns, values = gram_rows(gram, 0, 5)
    assert np.column_stack([rows, columns, values]).tolist() == [
        [0, 0, 1],
        [0, 3, 1],
        [3, 0, 1],
        [3, 3, 1],
    ]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_largest_of_each_row(k):
    rows = np.array([0, 0, 0, 2, 2])
    entries = Entries(rows, np.array([1, 4, 6, 0, 3]), np.array([2.0, 5.0, 2.0, 1.0, 7.0]))
    columns, values = largest_entries(entries, 4, k)
    expected = [[(4, 5), (1, 2), (6, 2)], [], [(3, 7), (0, 1)], []]
    for found_columns, found, wanted in zip(columns, values, expected, strict=True):
        wanted = wanted[:k]
        pairs = list(zip(found_columns.tolist(), found.tolist(), strict=True))
        assert pairs[: len(wanted)] == wanted
        assert not found[len(wanted) :].any()
