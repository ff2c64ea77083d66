"""GF-CF against dense NumPy, and answers that are known."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import ConfigError, override
from mmssl_jax.methods import closed, gfcf
from mmssl_jax.methods.gfcf import GFCF, GFCFConfig
from mmssl_jax.recommend import Recommender
from mmssl_jax.recommend.contents import contents_of
from mmssl_jax.training.problem import load_problem, new_state
from tests.problems import partial_dataset, propagation_matrix, step_dataset, tiny_dataset
from tests.test_mf import checkerboard

K = 3


def weights_of(dataset, **changes):
    changes = {f"gfcf.{name}": value for name, value in changes.items()}
    config = override(GFCFConfig(), {"data.format": "synthetic", **changes})
    return GFCF.build(config, dataset).inputs(dataset)


def feature_matrix(dataset) -> np.ndarray:
    """S by loops: 1/K at the K nearest by each modality, averaged over an item's modalities."""
    n_items = dataset.n_items
    total, count = np.zeros((n_items, n_items)), np.zeros(n_items)
    for modality, features in dataset.features.items():
        present = dataset.presence.get(modality, np.ones(n_items, bool))
        for j in np.flatnonzero(present):
            cosines = np.full(n_items, -np.inf)
            for i in np.flatnonzero(present):
                if i != j:
                    norms = np.linalg.norm(features[j]) * np.linalg.norm(features[i])
                    cosines[i] = features[j] @ features[i] / norms
            total[j, np.argsort(-cosines, kind="stable")[:K]] += 1 / K
            count[j] += 1
    return total / np.maximum(count, 1)[:, None]


def dense_weights(dataset, rank, alpha, popularity, share=0.0) -> np.ndarray:
    train = np.zeros((dataset.n_users, dataset.n_items))
    train[tuple(dataset.train.T)] = 1
    a = propagation_matrix(train, "symmetric")
    _, values, rows = np.linalg.svd(a)
    ones, there = np.sum(values > 1 - 1e-9), np.sum(values > 1e-9)
    top = rows[: min(ones + rank - 1, there)]
    inner = a.T @ a + alpha * top.T @ top
    if share:
        inner += share * feature_matrix(dataset)
    degree = np.maximum(train.sum(axis=0), 1)
    return degree[:, None] ** -0.5 * inner * degree[None, :] ** popularity


@pytest.fixture(params=["one block", "several"])
def blocks(request, monkeypatch):
    if request.param == "several":
        monkeypatch.setattr(gfcf, "ENTRIES_AT_ONCE", 200)


# The colours of a checkerboard have equal singular values, so that only all of them are certain.
@pytest.mark.parametrize(
    ("make", "rank"), [(step_dataset, 4), (tiny_dataset, 4), (checkerboard, 1), (checkerboard, 64)]
)
@pytest.mark.parametrize("popularity", [0.5, 0.8])
def test_weights_are_those_of_dense_numpy(make, rank, popularity, blocks):
    found = weights_of(make(), rank=rank, alpha=0.4, popularity=popularity)
    assert found.neighbours is None
    expected = dense_weights(make(), rank, 0.4, popularity)
    np.testing.assert_allclose(found.weights, expected, atol=2e-4 * expected.max())


@pytest.mark.parametrize("make", [step_dataset, partial_dataset])
def test_weights_with_features_are_those_of_dense_numpy(make, blocks):
    found = weights_of(make(), rank=4, features=0.2, feature_k=K)
    expected = dense_weights(make(), 4, 0.3, 0.5, 0.2)
    np.testing.assert_allclose(found.weights, expected, atol=2e-4 * expected.max())
    sums = feature_matrix(make()).sum(axis=1)
    assert np.all(np.isclose(sums, 1) | (sums == 0))
    assert make is step_dataset or np.any(sums == 0)


def test_the_largest_weights_are_kept(blocks):
    full = np.array(weights_of(tiny_dataset(), features=0.1).weights)
    kept = weights_of(tiny_dataset(), features=0.1, keep=7)
    assert kept.weights.shape == kept.neighbours.shape == (40, 7)
    values = np.take_along_axis(full, np.asarray(kept.neighbours), axis=1)
    np.testing.assert_array_equal(values, kept.weights)
    np.testing.assert_array_equal(np.sort(values), np.sort(full)[:, -7:])
    every = weights_of(tiny_dataset(), features=0.1, keep=1000)
    assert every.weights.shape == (40, 40)


def test_the_item_of_the_own_colour_comes_first():
    dataset = checkerboard()
    config = override(GFCFConfig(), {"data.format": "synthetic", "parallel.devices": 1})
    problem = load_problem(config, dataset)
    ask = Recommender(contents_of(problem, new_state(problem)))
    items, scores = ask.recommend(ask.user_ids, 2)
    np.testing.assert_array_equal(items[:, 0], dataset.test[:, 1])
    assert np.all(scores[:, 0] > 0.01)
    np.testing.assert_allclose(scores[:, 1], 0, atol=1e-6)  # of the other colour
    # A new user is scored as a known one with the same items.
    for user in (0, 5):
        own = dataset.train[dataset.train[:, 0] == user, 1]
        for found, expected in zip(ask.recommend_for_items([own], 4), (items, scores), strict=True):
            np.testing.assert_allclose(found[0, :2], expected[user], atol=1e-6)


def test_features_lead_to_items_that_nobody_has():
    """Item 3 is of no user, and its features are those of item 0."""
    features = np.array([[1, 0], [0, 1], [0.6, 0.8], [1, 0.01]], np.float32)
    nothing = np.zeros((0, 2), np.int32)
    dataset = dataclasses.replace(
        tiny_dataset(),
        user_ids=np.arange(3),
        item_ids=np.arange(4),
        train=np.array([[0, 0], [1, 1], [2, 1], [2, 2]], np.int32),
        validation=nothing,
        test=nothing,
        features={"visual": features},
    )
    plain = weights_of(dataset).weights
    assert np.all(np.isfinite(plain))
    assert not np.any(plain[:, 3])
    found = weights_of(dataset, features=0.5, feature_k=1).weights
    assert int(jnp.argmax(found[0, 1:])) + 1 == 3
    assert found[0, 3] == pytest.approx(0.5)


def test_weights_that_take_too_much_room_are_refused(monkeypatch):
    monkeypatch.setattr(closed, "MOST_BYTES", 40 * 39 * 4)
    with pytest.raises(ConfigError, match=r"40 items with 40 weights each .* set gfcf.keep to at"):
        weights_of(tiny_dataset())
    with pytest.raises(ConfigError, match="at most 19, for instance 19"):
        weights_of(tiny_dataset(), keep=20)
    assert weights_of(tiny_dataset(), keep=19).weights.shape == (40, 19)


def test_features_that_are_not_there_are_refused():
    bare = dataclasses.replace(tiny_dataset(), features={})
    weights_of(bare)
    with pytest.raises(ConfigError, match=r"gfcf.features is 0.1, but .* has no features"):
        weights_of(bare, features=0.1)
