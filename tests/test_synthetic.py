"""The planted dataset: legal, seeded, sparse, and solved best by both kinds of signal together."""

import time

import numpy as np
import pytest

from mmssl_jax.data import Dataset, planted_dataset, planted_vectors
from mmssl_jax.data.synthetic import Plan


def interaction_matrix(data: Dataset) -> np.ndarray:
    matrix = np.zeros((data.n_users, data.n_items))
    matrix[data.train[:, 0], data.train[:, 1]] = 1
    return matrix


def recall_at_20(data: Dataset, scores: np.ndarray) -> float:
    unseen = np.where(interaction_matrix(data) > 0, -np.inf, scores)
    top = np.argsort(-unseen, axis=1, kind="stable")[:, :20]
    wanted = np.zeros((data.n_users, data.n_items), bool)
    wanted[data.test[:, 0], data.test[:, 1]] = True
    users = wanted.any(axis=1)
    hits = np.take_along_axis(wanted, top, axis=1).sum(axis=1)
    return float((hits[users] / wanted[users].sum(axis=1)).mean())


def unit_rows(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


def z_scored(scores: np.ndarray) -> np.ndarray:
    centred = scores - scores.mean(axis=1, keepdims=True)
    return centred / np.maximum(scores.std(axis=1, keepdims=True), 1e-9)


def item_neighbours(data: Dataset) -> np.ndarray:
    """Item-kNN by cosine of degree-normalised rows."""
    x = interaction_matrix(data)
    degrees = np.maximum(x.sum(axis=1, keepdims=True), 1)
    columns = unit_rows((x / np.sqrt(degrees)).T)
    return x @ columns @ columns.T


def truncated_svd(data: Dataset, rank: int = 24) -> np.ndarray:
    x = interaction_matrix(data)
    sizes = [np.maximum(x.sum(axis=axis, keepdims=True), 1) for axis in (0, 1)]
    normal = x / np.sqrt(sizes[0] * sizes[1])
    basis = np.linalg.eigh(normal.T @ normal)[1][:, -rank:]  # right singular vectors
    return x @ basis @ basis.T


def feature_profiles(data: Dataset) -> np.ndarray:
    """Mean cosine between a user's training items and each item, summed over modalities."""
    x = interaction_matrix(data)
    rows = [unit_rows(features - features.mean(axis=0)) for features in data.features.values()]
    return sum(x @ r @ r.T for r in rows) / np.maximum(x.sum(axis=1, keepdims=True), 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_signals_together_beat_each_alone(seed):
    data = planted_dataset(seed=seed)
    popular = recall_at_20(data, np.tile(interaction_matrix(data).sum(axis=0), (data.n_users, 1)))
    features = feature_profiles(data)
    by_features = recall_at_20(data, features)
    by_neighbours = recall_at_20(data, item_neighbours(data))
    by_svd = recall_at_20(data, truncated_svd(data))
    both = recall_at_20(data, z_scored(truncated_svd(data)) + z_scored(features))
    users, items = planted_vectors(seed=seed)
    best = recall_at_20(data, users @ items.T)

    assert min(by_features, by_neighbours, by_svd) > 1.5 * popular
    assert both > 1.1 * max(by_features, by_neighbours, by_svd)
    assert best > 1.2 * both


def test_three_modalities_tell_more_than_two():
    two, three = (planted_dataset(n_modalities=n) for n in (2, 3))
    assert two.modalities == ("acoustic", "visual")
    assert three.modalities == ("acoustic", "textual", "visual")
    np.testing.assert_array_equal(two.train, three.train)
    np.testing.assert_array_equal(two.features["visual"], three.features["visual"])
    more, less = (recall_at_20(data, feature_profiles(data)) for data in (three, two))
    assert more > 1.05 * less


def test_users_are_sparse_and_items_skewed():
    data = planted_dataset()
    degrees = np.bincount(data.train[:, 0], minlength=data.n_users)
    assert ((degrees >= 2) & (degrees <= 4)).mean() > 0.4
    assert 0 < (degrees == 0).sum() < 0.03 * data.n_users
    popularity = np.sort(np.bincount(data.train[:, 1], minlength=data.n_items))[::-1]
    assert popularity[: data.n_items // 10].sum() > 0.3 * len(data.train)
    assert (popularity == 0).any()


def test_every_user_has_a_test_item_and_at_most_two():
    data = planted_dataset()
    counts = np.bincount(data.test[:, 0], minlength=data.n_users)
    assert set(counts) == {1, 2}
    assert set(np.bincount(data.validation[:, 0], minlength=data.n_users)) == {0, 1}


def test_seed_decides_everything():
    assert planted_dataset(seed=3).fingerprint() == planted_dataset(seed=3).fingerprint()
    assert planted_dataset(seed=3).fingerprint() != planted_dataset(seed=4).fingerprint()


def test_generation_takes_under_two_seconds():
    start = time.perf_counter()
    planted_dataset(seed=5, n_modalities=3)
    assert time.perf_counter() - start < 2


def test_sizes_are_as_asked():
    data = planted_dataset(n_users=60, n_items=40, plan=Plan(n_topics=8, width=5))
    assert (data.n_users, data.n_items) == (60, 40)
    assert {x.shape for x in data.features.values()} == {(40, 5)}


def test_number_of_modalities_is_checked():
    with pytest.raises(ValueError, match="n_modalities is 4, expected 2 or 3"):
        planted_dataset(n_modalities=4)
