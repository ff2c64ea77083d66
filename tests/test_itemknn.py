"""ItemKNN against dense NumPy by loops, and answers that are known."""

import dataclasses

import numpy as np
import pytest

from mmssl_jax.config import ConfigError, override
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.methods import closed, itemknn
from mmssl_jax.methods.itemknn import ItemKNN, ItemKNNConfig
from mmssl_jax.recommend import Recommender
from mmssl_jax.recommend.contents import contents_of
from mmssl_jax.training.problem import load_problem, new_state
from tests.problems import partial_dataset, step_dataset, tiny_dataset
from tests.test_mf import checkerboard


def weights_of(dataset, **changes):
    changes = {f"itemknn.{name}": value for name, value in changes.items()}
    config = override(ItemKNNConfig(), {"data.format": "synthetic", **changes})
    return ItemKNN.build(config, dataset).inputs(dataset)


def dense(scorer) -> np.ndarray:
    n_items = len(scorer.weights)
    matrix = np.zeros((n_items, n_items))
    rows = np.broadcast_to(np.arange(n_items)[:, None], scorer.weights.shape)
    np.add.at(matrix, (rows, np.asarray(scorer.neighbours)), np.asarray(scorer.weights, float))
    return matrix


def by_users(dataset: Dataset, shrinkage: float, unit_users: bool) -> np.ndarray:
    """Shrunk cosines [I, I] by loops, 0 for an item and itself."""
    train = np.zeros((dataset.n_users, dataset.n_items))
    train[tuple(dataset.train.T)] = 1
    for row in train:
        if unit_users and row.any():
            row /= np.linalg.norm(row)
    found = np.zeros((dataset.n_items, dataset.n_items))
    for j in range(dataset.n_items):
        for i in range(dataset.n_items):
            one, other = train[:, j], train[:, i]
            if i != j and one @ other > 0:
                lengths = np.linalg.norm(one) * np.linalg.norm(other)
                found[j, i] = one @ other / (lengths + shrinkage)
    return found


def by_content(dataset: Dataset) -> np.ndarray:
    """Sums of cosines over shared modalities [I, I] by loops, over sqrt(M_j M_i)."""
    n_items = dataset.n_items
    present = {m: dataset.presence.get(m, np.ones(n_items, bool)) for m in dataset.features}
    number = sum(present.values())
    found = np.zeros((n_items, n_items))
    for m, features in dataset.features.items():
        for j in range(n_items):
            for i in range(n_items):
                if i != j and present[m][j] and present[m][i]:
                    norms = np.linalg.norm(features[j]) * np.linalg.norm(features[i])
                    cosine = features[j] @ features[i] / norms
                    found[j, i] += cosine / np.sqrt(number[j] * number[i])
    return np.maximum(found, 0)


def largest(matrix: np.ndarray, k: int) -> np.ndarray:
    kept = np.zeros(matrix.shape)
    for j, row in enumerate(matrix):
        chosen = np.argsort(-row, kind="stable")[:k]
        kept[j, chosen] = row[chosen]
    return kept


@pytest.fixture(params=["one block", "several"])
def blocks(request, monkeypatch):
    if request.param == "several":
        monkeypatch.setattr(itemknn, "ITEMS_AT_ONCE", 7)


@pytest.mark.parametrize("make", [step_dataset, tiny_dataset])
@pytest.mark.parametrize("unit_users", [True, False])
@pytest.mark.parametrize("shrinkage", [0.0, 2.5])
def test_cooccurrence_is_that_of_dense_numpy(make, unit_users, shrinkage, blocks):
    settings = {"unit_users": unit_users, "shrinkage": shrinkage}
    full = by_users(make(), **settings)
    found = weights_of(make(), k=100, **settings)  # more than there are
    np.testing.assert_allclose(dense(found), full, atol=1e-6)
    found = weights_of(make(), k=4, **settings)
    assert found.weights.shape == (make().n_items, 4)
    # Which ones of equal weight are kept is left to rounding.
    np.testing.assert_allclose(found.weights, -np.sort(-full, axis=1)[:, :4], atol=1e-6)
    rows = np.arange(make().n_items)[:, None]
    np.testing.assert_allclose(full[rows, found.neighbours][found.weights > 0],
                               found.weights[found.weights > 0], atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("make", [step_dataset, partial_dataset])
def test_content_is_that_of_dense_numpy(make):
    found = weights_of(make(), by="content", content_k=5)
    np.testing.assert_allclose(dense(found), largest(by_content(make()), 5), atol=1e-5)


def test_items_without_modalities_are_no_neighbours_by_content():
    dataset = partial_dataset()
    lacking = np.flatnonzero(~np.any(list(dataset.presence.values()), axis=0))
    assert len(lacking)
    matrix = dense(weights_of(dataset, by="content", content_k=100))
    assert not matrix[lacking].any()
    assert not matrix[:, lacking].any()
    assert np.all(np.isfinite(matrix))


def test_both_are_mixed_on_one_scale():
    dataset = partial_dataset()
    settings = {"unit_users": True, "shrinkage": 3.0}
    parts = [by_users(dataset, **settings), largest(by_content(dataset), 5)]
    parts = [part / part[part > 0].mean() for part in parts]
    found = weights_of(dataset, by="both", k=40, content_k=5, content_weight=0.3, **settings)
    assert found.weights.shape == (40, 45)
    np.testing.assert_allclose(dense(found), 0.7 * parts[0] + 0.3 * parts[1], atol=1e-4)


def ask(dataset: Dataset, **changes) -> Recommender:
    changes = {f"itemknn.{name}": value for name, value in changes.items()}
    changes |= {"data.format": "synthetic", "parallel.devices": 1}
    problem = load_problem(override(ItemKNNConfig(), changes), dataset)
    return Recommender(contents_of(problem, new_state(problem)))


def test_the_item_of_the_own_colour_comes_first():
    dataset = checkerboard()
    made = ask(dataset)
    items, _ = made.recommend(made.user_ids, 1)
    np.testing.assert_array_equal(items[:, 0], dataset.test[:, 1])
    own = dataset.train[dataset.train[:, 0] == 5, 1]
    np.testing.assert_array_equal(made.recommend_for_items([own], 1)[0][0], items[5])


def test_content_decides_where_colours_are_features():
    """Interactions say nothing of items that nobody has; their features do."""
    dataset = checkerboard()
    colour = np.eye(2, dtype=np.float32)[np.arange(16) % 2]
    train = dataset.train[dataset.train[:, 1] < 12]
    changes = {"features": {"colour": colour + 0.1}, "train": train}
    dataset = dataclasses.replace(dataset, **changes)
    for by in ("content", "both"):
        made = ask(dataset, by=by, content_k=7)
        items, scores = made.recommend(made.user_ids, 3, items=[12, 13, 14, 15])
        assert np.all(items[:, :2] % 2 == np.arange(12)[:, None] % 2)
        assert np.all(scores[:, 1] > 0)
        assert not scores[:, 2].any()
    made = ask(dataset)
    assert not made.recommend(made.user_ids, 4, items=[12, 13, 14, 15])[1].any()


def test_random_neighbours_are_as_many():
    found = weights_of(partial_dataset(), by="content")
    config = override(ItemKNNConfig(), {"itemknn.by": "content", "data.neighbours": "random"})
    shuffled = ItemKNN.build(config, partial_dataset()).inputs(partial_dataset())
    np.testing.assert_array_equal(found.weights, shuffled.weights)
    assert np.mean(np.asarray(found.neighbours) != np.asarray(shuffled.neighbours)) > 0.3


def test_what_cannot_be_made_is_refused(monkeypatch):
    bare = dataclasses.replace(tiny_dataset(), features={})
    weights_of(bare)
    for by in ("content", "both"):
        with pytest.raises(ConfigError, match=f"itemknn.by is {by}, but .* has no features"):
            weights_of(bare, by=by)
    monkeypatch.setattr(closed, "MOST_BYTES", 40 * 8 * 8)
    weights_of(tiny_dataset(), k=8)
    with pytest.raises(ConfigError, match=r"set itemknn\.k to at most 8, for instance 8"):
        weights_of(tiny_dataset(), k=9)
    with pytest.raises(ConfigError, match=r"set itemknn\.content_k to at most 8"):
        weights_of(tiny_dataset(), by="both", k=3, content_k=9)
