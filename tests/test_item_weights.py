"""A scorer of weights between items, in evaluation, reports and recommendations, against NumPy."""

import csv
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import override
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.graph.rows import RowPairs
from mmssl_jax.method import ItemWeights
from mmssl_jax.methods.lightgcn import LightGCNConfig
from mmssl_jax.ranking import lists as lists_module
from mmssl_jax.ranking.evaluate import HeldOut, make_evaluator
from mmssl_jax.ranking.lists import Scoring, weighted_scores
from mmssl_jax.recommend import NewItems, Recommender
from mmssl_jax.recommend.contents import contents_of
from mmssl_jax.recommend.export import export_embeddings, export_lists
from mmssl_jax.report.lists import rank_lists
from mmssl_jax.training.problem import Problem, load_problem, new_state
from tests.problems import tiny_dataset
from tests.test_evaluate import brute_force

KINDS = ("largest", "full", "rows")
KS = (3, 10, 100)
BLOCK = 16


class Case(NamedTuple):
    """A dataset with cold items, and a scorer with its dense matrix and scores [U, I]."""

    problem: Problem
    scorer: ItemWeights
    matrix: np.ndarray
    scores: np.ndarray

    @property
    def ids(self) -> np.ndarray:
        return self.problem.dataset.item_ids

    def items_of(self, user: int, *splits: str) -> set[int]:
        edges = np.concatenate([self.problem.dataset.splits[split] for split in splits])
        return set(edges[edges[:, 0] == user, 1].tolist())


def largest(matrix: np.ndarray, k: int) -> ItemWeights:
    """The k largest weights of each row, in no order."""
    order = np.argsort(-matrix, axis=1, kind="stable")[:, :k]
    order = np.random.default_rng(0).permuted(order, axis=1)
    weights = np.take_along_axis(matrix, order, 1)
    return ItemWeights(jnp.asarray(order, jnp.int32), jnp.asarray(weights, jnp.float32))


@pytest.fixture(scope="module", params=KINDS)
def case(request) -> Case:
    changes = {"data.format": "synthetic", "data.cold_items": 0.2, "parallel.devices": 1}
    problem = load_problem(override(LightGCNConfig(), changes), tiny_dataset())
    n_items = problem.dataset.n_items
    matrix = np.random.default_rng(1).normal(size=(n_items, n_items)).astype(np.float32)
    dense = np.zeros(matrix.shape)
    if request.param == "rows":
        scorer, dense = ItemWeights(None, jnp.asarray(matrix)), matrix.astype(float)
    else:
        scorer = largest(matrix, n_items if request.param == "full" else 6)
        np.put_along_axis(dense, np.asarray(scorer.neighbours), np.asarray(scorer.weights), 1)
    assert np.count_nonzero(dense) == scorer.weights.size
    train = np.zeros((problem.dataset.n_users, n_items))
    train[tuple(problem.dataset.train.T)] = 1
    return Case(problem, scorer, dense, train @ dense)


@pytest.fixture(scope="module")
def ask(case) -> Recommender:
    made = contents_of(case.problem, new_state(case.problem))._replace(scorer=case.scorer)
    return Recommender(made, BLOCK)


def best(scores: np.ndarray, left_out: set[int], k: int) -> list[int]:
    kept = np.setdiff1d(np.arange(len(scores)), list(left_out))
    return kept[np.argsort(-scores[kept], kind="stable")][:k].tolist()


@pytest.mark.parametrize("entries", [None, 1, 50])
def test_scores_are_sums_of_rows(case, monkeypatch, entries):
    """Also where the pairs are summed a few at a time; what is masked adds nothing."""
    if entries:
        monkeypatch.setattr(lists_module, "vectors_at_once", lambda width: entries)
    edges = case.problem.dataset.train
    rows = np.concatenate([edges[:, 0], [3, 3]])
    items = np.concatenate([edges[:, 1], [0, 1]])
    order = np.random.default_rng(0).permutation(len(rows))
    mask = (np.arange(len(rows)) < len(edges))[order]
    pairs = RowPairs(*map(jnp.asarray, (rows[order], items[order], mask)))
    found = weighted_scores(case.scorer, pairs, len(case.scores))
    np.testing.assert_allclose(found, case.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask_validation", [False, True])
@pytest.mark.parametrize(
    ("n_devices", "transform", "block_users"),
    [(1, "pmap", 512), (4, "pmap", 5), (4, "shard_map", 512), (1, "shard_map", 1)],
)
def test_metrics_are_those_of_a_brute_force_count(
    case, mask_validation, n_devices, transform, block_users
):
    """What is masked besides training items adds nothing to the scores."""
    data = case.problem.dataset
    also_seen = data.validation if mask_validation else None
    split = HeldOut(data.n_users, data.n_items, data.train, data.test, also_seen)
    devices = jax.local_devices()[:n_devices]
    evaluator = make_evaluator(split, Scoring(KS, block_users), devices, transform)
    expected = brute_force(split.seen, data.test, case.scores, np.eye(data.n_items), KS)
    assert evaluator(case.scorer) == pytest.approx(expected, abs=1e-6)
    assert expected["recall@10"] > 0


def test_the_lists_of_a_report(case):
    data = case.problem.dataset
    split = HeldOut(data.n_users, data.n_items, data.train, data.test)
    found = rank_lists(case.scorer, split, 7, Scoring(block_users=9))
    assert found.users.tolist() == np.unique(data.test[:, 0]).tolist()
    for user, items in zip(found.users, found.items, strict=True):
        assert items.tolist() == best(case.scores[user], case.items_of(user, "train"), 7)


def test_weights_of_another_dataset_are_refused(case):
    data = case.problem.dataset
    split = HeldOut(data.n_users, data.n_items + 1, data.train, data.test)
    evaluator = make_evaluator(split, Scoring(KS), jax.local_devices()[:1], "pmap")
    with pytest.raises(ValueError, match="got weights of 40 items, but this split has 41"):
        evaluator(case.scorer)


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("none", ()),
        ("train", ("train",)),
        ("train_validation", ("train", "validation")),
        ("all", ("train", "validation", "test")),
    ],
)
def test_lists_of_all_users(case, ask, name, splits):
    cold = case.problem.cold.interactions
    n_items = len(case.ids)
    ids, scores = ask.recommend(ask.user_ids, n_items, filter=name)
    for user in range(len(ask.user_ids)):
        left_out = case.items_of(user, *splits) if splits else set()
        if name == "all":
            left_out |= set(cold[cold[:, 0] == user, 1].tolist())
        expected = best(case.scores[user], left_out, n_items)
        assert ids[user].tolist() == expected + [-1] * (n_items - len(expected))
        values = scores[user, : len(expected)]
        np.testing.assert_allclose(values, case.scores[user, expected], rtol=1e-5, atol=1e-5)
        assert np.isneginf(scores[user, len(expected) :]).all()


def test_candidates(case, ask):
    ids, _ = ask.recommend([4, 2, 4], 3, "none", items=[0, 4, 9, 12], exclude=[9, 1])
    others = set(range(len(case.ids))) - {0, 4, 12}
    assert ids.tolist() == [best(case.scores[user], others, 3) for user in (4, 2, 4)]


def test_users_known_by_their_items(case, ask):
    lists = [[3], [5, 8, 5, 20], list(range(30))]
    for name in ("none", "train", "all"):
        ids, scores = ask.recommend_for_items(lists, 6, filter=name)
        for row, items in enumerate(lists):
            own = sorted(set(items))  # an item counts once
            summed = case.matrix[own].sum(axis=0)
            expected = best(summed, set() if name == "none" else set(own), 6)
            assert ids[row].tolist() == expected
            np.testing.assert_allclose(scores[row], summed[expected], rtol=1e-5, atol=1e-5)
    train = [sorted(case.items_of(user, "train")) for user in range(len(ask.user_ids))]
    known = [user for user, items in enumerate(train) if items]
    ids, scores = ask.recommend_for_items([train[user] for user in known], 9)
    expected_ids, expected = ask.recommend(ask.user_ids[known], 9)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_similar_items_are_those_of_the_largest_weights(case, ask):
    ids, scores = ask.similar_items(case.ids, 5)
    for item in range(len(case.ids)):
        expected = best(case.matrix[item], {item}, 5)
        assert ids[item].tolist() == expected
        np.testing.assert_allclose(scores[item], case.matrix[item, expected], rtol=1e-6)
    ids, _ = ask.similar_items([4, 6], 3, items=[9, 2, 4, 5], exclude=[5])
    others = set(range(len(case.ids))) - {9, 2, 4}
    for row, item in zip(ids, (4, 6), strict=True):
        expected = best(case.matrix[item], others | {item}, 3)
        assert row.tolist() == expected + [-1] * (3 - len(expected))


def test_lists_are_exported(case, ask, tmp_path):
    rows = export_lists(ask, tmp_path / "lists.csv", 4, filter="train_validation")
    assert rows == 4 * len(ask.user_ids)
    with (tmp_path / "lists.csv").open(newline="") as file:
        found = [int(row["item"]) for row in csv.DictReader(file)]
    expected = [
        best(case.scores[user], case.items_of(user, "train", "validation"), 4)
        for user in range(len(ask.user_ids))
    ]
    assert found == np.concatenate(expected).tolist()


def test_there_are_no_vectors(ask, tmp_path):
    says = "LightGCN ranks by weights between items: it has no vectors"
    raw = {m: np.zeros((1, width)) for m, width in ask.contents.widths.items()}
    for refused in (
        lambda: ask.user_vectors,
        lambda: ask.item_vectors,
        lambda: ask.user_vectors_from_items([[3]]),
        lambda: ask.item_vectors_from_features(raw),
        lambda: ask.recommend_cold(raw),
        lambda: ask.similar_to_cold(raw),
        lambda: ask.recommend([1], cold=NewItems([100], raw)),
        lambda: ask.recommend_for_items([[1]], cold=NewItems([100], raw)),
        lambda: export_embeddings(ask, tmp_path / "vectors.npz"),
    ):
        with pytest.raises(DatasetError, match=says):
            refused()
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_asked(ask):
    with pytest.raises(DatasetError, match="k is 0"):
        ask.recommend([1], k=0)
    with pytest.raises(DatasetError, match="unknown item id 77"):
        ask.similar_items([77])
    with pytest.raises(DatasetError, match=r"item list 0 is empty \(1 are\)"):
        ask.recommend_for_items([[]])
