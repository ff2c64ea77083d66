"""Recommendations in raw ids, of a tiny run with string ids, against dense NumPy."""

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.recommend import Recommender
from mmssl_jax.recommend.cold_evaluation import content_vectors, evaluate_cold_items
from mmssl_jax.recommend.rank import _rank_block
from mmssl_jax.training.loop import fit
from tests.tiny import tiny_config, tiny_dataset

BLOCK = 16


class Run(NamedTuple):
    recommender: Recommender
    users: np.ndarray
    items: np.ndarray
    scores: np.ndarray  # [U, I], by NumPy


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "run"
    plain = tiny_dataset()
    dataset = dataclasses.replace(
        plain,
        user_ids=np.array([f"u{n}" for n in range(plain.n_users)]),
        item_ids=np.array([f"item {n}" for n in range(plain.n_items)]),
    )
    changes = {"game.weight": 0.0, "train.epochs": 3, "data.cold_items": 0.2}
    fit(tiny_config(changes=changes), place, dataset=dataset, quiet=True)
    made = Recommender.from_run(place, dataset=dataset, devices=1, block=BLOCK)
    users, items = np.asarray(made.user_vectors), np.asarray(made.item_vectors)
    return Run(made, dataset.user_ids, dataset.item_ids, users @ items.T)


def train_items(run: Run, user: int) -> np.ndarray:
    train = run.recommender.dataset.train
    return train[train[:, 0] == user, 1]


def best(run: Run, scores: np.ndarray, left_out, k: int) -> tuple[list, np.ndarray]:
    """Raw ids and scores of the k best, by sorting."""
    kept = np.setdiff1d(np.arange(len(scores)), np.asarray(left_out, int))
    order = kept[np.argsort(-scores[kept], kind="stable")][:k]
    return run.items[order].tolist(), scores[order]


def test_lists_of_all_users_in_blocks(run):
    ids, scores = run.recommender.recommend(run.users, k=7)
    assert ids.shape == scores.shape == (len(run.users), 7)
    for user in range(len(run.users)):
        expected, values = best(run, run.scores[user], train_items(run, user), 7)
        assert ids[user].tolist() == expected
        np.testing.assert_allclose(scores[user], values, rtol=1e-5, atol=1e-6)


def test_filters_and_candidates(run):
    asked = ["u5", "u3", "u5"]
    ids, _ = run.recommender.recommend(asked, k=4, filter_seen=False)
    assert ids.tolist() == [best(run, run.scores[u], [], 4)[0] for u in (5, 3, 5)]
    validation = run.recommender.dataset.validation
    user = int(validation[0, 0])
    ids, _ = run.recommender.recommend([f"u{user}"], k=30, filter_validation=True)
    held = validation[validation[:, 0] == user, 1]
    seen = np.concatenate([train_items(run, user), held])
    assert ids[0].tolist()[:5] == best(run, run.scores[user], seen, 5)[0]
    assert not {f"item {i}" for i in seen} & set(ids[0].tolist())
    candidates = np.array([0, 4, 9, 12, 30])
    ids, _ = run.recommender.recommend(
        asked, k=3, filter_seen=False, items=run.items[candidates], exclude=["item 9", "item 1"]
    )
    others = np.setdiff1d(np.arange(len(run.items)), [0, 4, 12, 30])
    assert ids.tolist() == [best(run, run.scores[u], others, 3)[0] for u in (5, 3, 5)]


@pytest.mark.parametrize("k", [4, 100])
def test_fewer_candidates_than_k(run, k):
    ids, scores = run.recommender.recommend(
        ["u1"], k=k, filter_seen=False, items=["item 2", "item 7"]
    )
    assert ids.shape == scores.shape == (1, k)
    assert set(ids[0, :2]) == {"item 2", "item 7"}
    assert set(ids[0, 2:]) == {""}
    assert np.isneginf(scores[0, 2:]).all()
    assert np.isfinite(scores[0, :2]).all()


def test_what_cannot_be_asked(run):
    ask = run.recommender
    unknown = [f"x{n}" for n in range(7)]
    with pytest.raises(DatasetError, match=r"'x0', 'x1', 'x2', 'x3', 'x4' and 2 more.*'u0'"):
        ask.recommend(["u1", *unknown])
    with pytest.raises(DatasetError, match=r"unknown user id 1: .* strs such as"):
        ask.recommend(np.array([1]))
    with pytest.raises(DatasetError, match="expected a list of ids"):
        ask.recommend("u1")
    with pytest.raises(DatasetError, match="unknown item id 'nothing'"):
        ask.similar_items(["nothing"])
    with pytest.raises(DatasetError, match="k is 0"):
        ask.recommend(["u1"], k=0)
    with pytest.raises(DatasetError, match=r"item list 1 is empty \(1 are\)"):
        ask.recommend_for_items([["item 1"], []])
    features = ask.dataset.features
    with pytest.raises(DatasetError, match="features have shapes"):
        ask.item_vectors_from_features({"visual": features["visual"]})
    broken = {m: raw.copy() for m, raw in features.items()}
    broken["visual"][3] = np.nan
    with pytest.raises(DatasetError, match="visual: row 3 is not finite"):
        ask.item_vectors_from_features(broken)


def unit(x):
    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(norms > 0, norms, 1)


def test_similar_items(run):
    vectors = unit(np.asarray(run.recommender.item_vectors))
    ids, scores = run.recommender.similar_items(run.items, k=5)
    for item in range(len(run.items)):
        expected, values = best(run, vectors @ vectors[item], [item], 5)
        np.testing.assert_allclose(scores[item], values, rtol=1e-5, atol=1e-6)
        assert ids[item].tolist() == expected


def test_blocks_of_one_shape_compile_once(run):
    run.recommender.recommend(run.users, k=6)
    before = _rank_block._cache_size()
    run.recommender.recommend(run.users[:3], k=6, exclude=["item 3"])
    run.recommender.recommend(run.users[20:], k=6, items=run.items[:9], filter_seen=False)
    assert _rank_block._cache_size() == before


def test_training_users_by_their_items_are_ranked_much_as_they_are(run):
    known = [u for u in range(len(run.users)) if len(train_items(run, u))]
    lists = [run.items[train_items(run, u)].tolist() for u in known]
    vectors = run.recommender.user_vectors_from_items(lists)
    scores = vectors @ np.asarray(run.recommender.item_vectors).T
    alike = [np.corrcoef(a, b)[0, 1] for a, b in zip(scores, run.scores[known], strict=True)]
    assert np.mean(alike) > 0.9
    ids, _ = run.recommender.recommend_for_items(lists, k=10)
    real, _ = run.recommender.recommend(run.users[known], k=10)
    overlap = [len(set(a) & set(b)) / 10 for a, b in zip(ids, real, strict=True)]
    assert np.mean(overlap) > 0.7
    for row, seen in zip(ids, lists, strict=True):
        assert not set(row) & set(seen)
    twice = run.recommender.user_vectors_from_items([lists[0] * 2])
    np.testing.assert_allclose(twice[0], vectors[0], rtol=1e-5, atol=1e-6)


def test_cold_items_rank_users_and_items(run):
    raw = {m: x[:20] for m, x in run.recommender.dataset.features.items()}
    vectors = run.recommender.item_vectors_from_features(raw)
    users, items = (
        np.asarray(v) for v in (run.recommender.user_vectors, run.recommender.item_vectors)
    )
    ids, scores = run.recommender.recommend_cold(raw, k=4)
    expected = vectors @ users.T
    order = np.argsort(-expected, axis=1, kind="stable")[:, :4]
    np.testing.assert_allclose(scores, np.take_along_axis(expected, order, 1), rtol=1e-4, atol=1e-5)
    assert ids.tolist() == run.users[order].tolist()
    ids, scores = run.recommender.similar_to_cold(raw, k=4)
    cosines = unit(vectors) @ unit(items).T
    np.testing.assert_allclose(scores, -np.sort(-cosines, axis=1)[:, :4], rtol=1e-4, atol=1e-5)


def recall(scores, relevant, k):
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    hits = np.take_along_axis(relevant, top, 1).sum(axis=1)
    return (hits / relevant.sum(axis=1)).mean()


def test_evaluation_of_cold_items(run):
    ask = run.recommender
    dataset, cold = ask.dataset, ask.problem.cold
    among_cold, among_all = evaluate_cold_items(ask)
    relevant = np.zeros(run.scores.shape, bool)
    relevant[tuple(cold.interactions.T)] = True
    users = np.flatnonzero(relevant.any(axis=1))
    vectors = ask.item_vectors_from_features(
        {m: x[cold.items] for m, x in dataset.features.items()}
    )
    by_features = np.asarray(ask.user_vectors)[users] @ vectors.T
    held = relevant[users][:, cold.items]
    assert among_cold["MMSSL"]["recall@5"] == pytest.approx(recall(by_features, held, 5))
    content = np.zeros((len(users), len(cold.items)))
    for raw in dataset.features.values():
        for row, user in enumerate(users):
            own = dataset.train[dataset.train[:, 0] == user, 1]
            mean = raw[own].mean(axis=0) if len(own) else np.zeros(raw.shape[1])
            content[row] += unit(raw[cold.items]) @ unit(mean)
    actual = content_vectors(dataset.features, dataset.train, cold.items, dataset.n_users)
    np.testing.assert_allclose((actual[0] @ actual[1].T)[users], content, atol=1e-5)
    assert among_cold["content"]["recall@5"] == pytest.approx(recall(content, held, 5))
    every = run.scores[users].copy()
    every[:, cold.items] = by_features
    rows = {user: row for row, user in enumerate(users)}
    for user, item in dataset.train.tolist():
        if user in rows:
            every[rows[user], item] = -np.inf
    expected = recall(every, relevant[users], 5)
    assert among_all["MMSSL"]["recall@5"] == pytest.approx(expected)
    assert set(among_all) == {"MMSSL", "random"}
    assert set(among_cold) == {"MMSSL", "content", "random"}
