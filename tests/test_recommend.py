"""Recommendations in raw ids, of a tiny run with string ids, against dense NumPy."""

import csv
import dataclasses
import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.data.dataset import Dataset, DatasetError, DatasetWarning
from mmssl_jax.method import Vectors
from mmssl_jax.precision import matmul
from mmssl_jax.recommend import NewItems, Recommender
from mmssl_jax.recommend.cold_evaluation import content_vectors, evaluate_cold_items
from mmssl_jax.recommend.contents import contents_of
from mmssl_jax.recommend.export import export_lists
from mmssl_jax.recommend.ids import positions
from mmssl_jax.recommend.rank import _rank_vectors
from mmssl_jax.recommend.recommender import _check_filter
from mmssl_jax.training.loop import fit
from mmssl_jax.training.problem import Problem, load_problem, new_state
from mmssl_jax.training.programs import split_evaluator
from mmssl_jax.training.restore import restore_run
from tests.problems import partial_dataset, tiny_config, tiny_dataset

BLOCK = 16


class Run(NamedTuple):
    recommender: Recommender
    problem: Problem
    scores: np.ndarray  # [U, I], by NumPy

    @property
    def dataset(self) -> Dataset:
        return self.problem.dataset

    @property
    def users(self) -> np.ndarray:
        return self.dataset.user_ids

    @property
    def items(self) -> np.ndarray:
        return self.dataset.item_ids


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
    problem, _ = restore_run(place, dataset=dataset, devices=1)
    return Run(made, problem, users @ items.T)


@pytest.fixture(scope="module")
def partial() -> Run:
    """An untrained model at reduced precision, on items some of which lack modalities."""
    changes = {"game.weight": 0.0, "data.cold_items": 0.2, "precision": "bfloat16"}
    problem = load_problem(tiny_config(changes=changes), partial_dataset())
    made = Recommender(contents_of(problem, new_state(problem)), block=BLOCK)
    return Run(made, problem, np.asarray(made.user_vectors) @ np.asarray(made.item_vectors).T)


def train_items(run: Run, user: int) -> np.ndarray:
    train = run.dataset.train
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
    ids, _ = run.recommender.recommend(asked, k=4, filter="none")
    assert ids.tolist() == [best(run, run.scores[u], [], 4)[0] for u in (5, 3, 5)]
    validation = run.dataset.validation
    user = int(validation[0, 0])
    ids, _ = run.recommender.recommend([f"u{user}"], k=30, filter="train_validation")
    held = validation[validation[:, 0] == user, 1]
    seen = np.concatenate([train_items(run, user), held])
    assert ids[0].tolist()[:5] == best(run, run.scores[user], seen, 5)[0]
    assert not {f"item {i}" for i in seen} & set(ids[0].tolist())
    candidates = np.array([0, 4, 9, 12, 30])
    ids, _ = run.recommender.recommend(
        asked, k=3, filter="none", items=run.items[candidates], exclude=["item 9", "item 1"]
    )
    others = np.setdiff1d(np.arange(len(run.items)), [0, 4, 12, 30])
    assert ids.tolist() == [best(run, run.scores[u], others, 3)[0] for u in (5, 3, 5)]


def everything_of(run: Run, user: int) -> set[str]:
    """Raw ids of all items that a user has in any split, before cold items were held out."""
    splits = tiny_dataset().splits.values()
    return {f"item {i}" for edges in splits for i in edges[edges[:, 0] == user, 1]}


def test_all_known_interactions_are_left_out(run):
    ids, scores = run.recommender.recommend(run.users, k=len(run.items), filter="all")
    cold = run.problem.cold
    assert len(cold.interactions)
    for user in range(len(run.users)):
        shown = set(ids[user][np.isfinite(scores[user])])
        assert shown == set(run.items) - everything_of(run, user)


def test_exports_leave_out_what_is_asked(run, tmp_path):
    shown, dataset = {}, run.dataset
    for what in ("none", "train", "train_validation", "all"):
        file = tmp_path / f"{what}.csv"
        export_lists(run.recommender, file, k=40, filter=what)
        with file.open(newline="") as opened:
            shown[what] = {(row["user"], row["item"]) for row in csv.DictReader(opened)}
    pairs = {(u, i) for u, i in itertools.product(run.users, run.items)}
    train, validation = (
        {(f"u{u}", f"item {i}") for u, i in edges.tolist()}
        for edges in (dataset.train, dataset.validation)
    )
    assert shown["none"] == pairs
    assert shown["train"] == pairs - train
    assert shown["train_validation"] == pairs - train - validation
    known = {(f"u{u}", raw) for u in range(len(run.users)) for raw in everything_of(run, u)}
    assert shown["all"] == pairs - known


def test_a_filter_that_is_none():
    with pytest.raises(DatasetError, match="filter is 'seen', expected one of none, train, "):
        _check_filter("seen")


@pytest.mark.parametrize("k", [4, 100])
def test_fewer_candidates_than_k(run, k):
    ids, scores = run.recommender.recommend(["u1"], k=k, filter="none", items=["item 2", "item 7"])
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
    with pytest.raises(DatasetError, match="k is 0"):
        ask.recommend_cold(run.dataset.features, k=0)
    for k in (-1, 10**30):
        with pytest.raises(DatasetError, match=r"k is "):
            ask.recommend(["u1"], k=k)
    for block in (0, 10**12):
        with pytest.raises(DatasetError, match=r"block is .*, expected 1 to"):
            Recommender(ask.contents, block=block)
    features = run.dataset.features
    for wrong in (
        {},
        {"visual": features["visual"], "smell": features["visual"]},
        {"visual": features["visual"][:, 1:]},
        {"visual": features["visual"], "acoustic": features["acoustic"][1:]},
    ):
        with pytest.raises(DatasetError, match="features have shapes"):
            ask.item_vectors_from_features(wrong)
    broken = {m: raw.copy() for m, raw in features.items()}
    broken["visual"][3, 0] = np.nan
    with pytest.raises(DatasetError, match="visual: row 3 is not finite"):
        ask.item_vectors_from_features(broken)
    lost = {m: raw.copy() for m, raw in features.items()}
    for raw in lost.values():
        raw[5:7] = np.nan
    with pytest.raises(DatasetError, match=r"item 5 has none of the modalities .* \(2 have none"):
        ask.item_vectors_from_features(lost)


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
    others = np.setdiff1d(np.arange(len(run.items)), [2, 4, 9])
    ids, _ = run.recommender.similar_items(
        ["item 4", "item 6"],
        k=3,
        items=["item 9", "item 2", "item 4", "item 5"],
        exclude=["item 5"],
    )
    for row, item in zip(ids, (4, 6), strict=True):
        left_out = np.union1d(others, [item])
        expected, _ = best(run, vectors @ vectors[item], left_out, 3)
        assert row.tolist() == expected + [""] * (3 - len(expected))
    raw = {m: x[4:5] for m, x in run.dataset.features.items()}
    ids, _ = run.recommender.similar_to_cold(
        raw, k=2, items=["item 9", "item 2"], exclude=["item 2"]
    )
    assert ids.tolist() == [["item 9", ""]]


class Series:
    """Like a table's column: iterable, but no sequence."""

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return iter(self.values)


def test_ids_are_any_iterable(run):
    ask = run.recommender
    expected = ask.recommend(["u5", "u3"], k=3, items=["item 1", "item 2", "item 3"])[0].tolist()
    for users in (Series(["u5", "u3"]), (u for u in ("u5", "u3")), {"u5": 1, "u3": 2}):
        ids, _ = ask.recommend(users, k=3, items={"item 2", "item 3", "item 1"})
        assert ids.tolist() == expected
    ids, _ = ask.recommend_for_items((Series([i]) for i in ("item 1", "item 2")), k=3)
    assert ids.tolist() == ask.recommend_for_items([["item 1"], ["item 2"]], k=3)[0].tolist()
    index = {3: 0, 5: 1}
    assert positions(np.array([5, 3]), index, "item").tolist() == [1, 0]
    assert positions((np.array(5), jnp.array(3)), index, "item").tolist() == [1, 0]


@pytest.mark.parametrize("asked", [True, 1.0, np.bool_(True), np.float32(1), float("nan")])
def test_what_only_equals_an_id_is_none(asked):
    with pytest.raises(DatasetError, match=r"unknown user id .*: expected ids of"):
        positions([asked], {0: 0, 1: 1}, "user")


@pytest.mark.extras
def test_ids_of_a_polars_column(run):
    polars = pytest.importorskip("polars", reason="needs the extra `tables`")
    ids, _ = run.recommender.recommend(polars.Series(["u5", "u3"]), k=3)
    assert ids.tolist() == run.recommender.recommend(["u5", "u3"], k=3)[0].tolist()


@pytest.mark.parametrize(
    "asked", ["x" * 9999, b"a", 7, np.array(7), None, [[3, 5]], [np.arange(9999)]]
)
def test_ids_that_are_no_list_of_ids(asked):
    with pytest.raises(DatasetError, match=r"item ids (are|hold a) .*, ?.*list of ids") as error:
        positions(asked, {3: 0, 5: 1}, "item")
    assert len(str(error.value)) < 250


def test_unknown_ids_are_not_printed_whole():
    with pytest.raises(DatasetError, match="and 9994 more") as error:
        positions(["x" * 9999, *range(10, 10_008)], {3: 0, 5: 1}, "item")
    assert len(str(error.value)) < 300


def test_blocks_of_one_shape_compile_once(run):
    run.recommender.recommend(run.users, k=6)
    before = _rank_vectors._cache_size()
    run.recommender.recommend(run.users[:3], k=6, exclude=["item 3"])
    run.recommender.recommend(run.users[20:], k=6, items=run.items[:9], filter="none")
    assert _rank_vectors._cache_size() == before


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
    kept, _ = run.recommender.recommend_for_items(lists, k=len(run.items), filter="none")
    assert all(set(row) == set(run.items) for row in kept)
    twice = run.recommender.user_vectors_from_items([lists[0] * 2])
    np.testing.assert_allclose(twice[0], vectors[0], rtol=1e-5, atol=1e-6)


def test_cold_items_rank_users_and_items(run):
    raw = {m: x[:20] for m, x in run.dataset.features.items()}
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


def test_items_that_lack_a_modality(run):
    raw = {m: x[:6].copy() for m, x in run.dataset.features.items()}
    whole = run.recommender.item_vectors_from_features(raw)
    one = run.recommender.item_vectors_from_features({"visual": raw["visual"]})
    raw["acoustic"][2:4] = np.nan
    some = run.recommender.item_vectors_from_features(raw)
    np.testing.assert_allclose(some[2:4], one[2:4], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(some[[0, 1, 4, 5]], whole[[0, 1, 4, 5]], rtol=1e-5, atol=1e-6)
    assert np.abs(one - whole).max() > 0.1
    ids, _ = run.recommender.recommend_cold({"visual": raw["visual"]}, k=3)
    assert ids[2:4].tolist() == run.recommender.recommend_cold(raw, k=3)[0][2:4].tolist()


def test_new_items_among_the_others(run):
    ask = run.recommender
    rng = np.random.default_rng(1)
    raw = {m: rng.normal(size=(3, x.shape[1])) for m, x in run.dataset.features.items()}
    new = NewItems(["fresh", "item 7", "a much longer name than the others have"], raw)
    catalogue = np.array([*run.items, new.ids[0], new.ids[2]], object)
    vectors = np.concatenate([np.array(ask.item_vectors), np.zeros((2, ask.item_vectors.shape[1]))])
    vectors[[len(run.items), 7, len(run.items) + 1]] = ask.item_vectors_from_features(raw)
    scores = np.asarray(ask.user_vectors) @ vectors.T
    ids, found = ask.recommend(run.users, k=len(catalogue), cold=new)
    for user in range(len(run.users)):
        kept = np.setdiff1d(np.arange(len(catalogue)), train_items(run, user))
        order = kept[np.argsort(-scores[user, kept], kind="stable")]
        assert ids[user, : len(kept)].tolist() == catalogue[order].tolist()
        assert set(ids[user, len(kept) :]) <= {""}
        np.testing.assert_allclose(found[user, : len(kept)], scores[user, order], 1e-4, 1e-5)
    ids, _ = ask.recommend(run.users[:2], k=3, cold=new, items=new.ids, exclude=["item 7"])
    assert [set(row) for row in ids] == [{new.ids[0], new.ids[2], ""}] * 2
    ids, _ = ask.recommend_for_items([["item 1"]], k=3, cold=new, items=["fresh"])
    assert ids.tolist() == [["fresh", "", ""]]


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (["a", "a"], "new item id 'a' is repeated"),
        (["a"], "1 new item ids for features of 2 items"),
        (["a", 3], "new item id 3: expected strs like the run's own, such as 'item 0'"),
        (["a", ""], "new item id '': expected strs"),
        ("ab", "new item ids are 'ab', expected a list of ids"),
    ],
)
def test_new_items_that_cannot_be_ranked(run, ids, says):
    raw = {m: x[:2] for m, x in run.dataset.features.items()}
    with pytest.raises(DatasetError, match=says):
        run.recommender.recommend(["u1"], cold=NewItems(ids, raw))


def test_items_without_training_interactions_as_new_ones(run, partial):
    new = run.recommender.untrained_items()
    degree = np.bincount(run.dataset.train[:, 1], minlength=len(run.items))
    assert list(new.ids) == run.items[degree == 0].tolist()
    assert set(run.problem.cold.items) <= set(np.flatnonzero(degree == 0))
    ids, _ = run.recommender.recommend(run.users, k=5, cold=new, items=new.ids, filter="none")
    vectors = run.recommender.item_vectors_from_features(new.features)
    order = np.argsort(-np.asarray(run.recommender.user_vectors) @ vectors.T, axis=1)[:, :5]
    assert ids.tolist() == np.asarray(new.ids)[order].tolist()
    # Numbers as ids, and items that have no modality at all.
    dataset, new = partial.dataset, partial.recommender.untrained_items()
    degree = np.bincount(dataset.train[:, 1], minlength=dataset.n_items)
    some = np.any(list(dataset.presence.values()), axis=0)
    assert list(new.ids) == np.flatnonzero((degree == 0) & some).tolist()
    assert np.count_nonzero(degree == 0) > len(new.ids)
    fresh = NewItems([100, 77], {"visual": np.eye(2, 6)})
    ids, scores = partial.recommender.recommend([4], k=45, cold=fresh)
    assert {77, 100} <= set(ids[0])
    assert set(ids[0][np.isneginf(scores[0])]) == {-1}


def test_lists_and_metrics_agree_at_reduced_precision(partial):
    ask, dataset, k = partial.recommender, partial.dataset, 5
    ids, scores = ask.recommend(dataset.user_ids, k)
    rounded = np.array(matmul(ask.user_vectors, ask.item_vectors.T, "bfloat16"))
    np.testing.assert_allclose(scores, np.take_along_axis(rounded, ids, 1), rtol=1e-5, atol=1e-6)
    assert np.abs(scores - np.take_along_axis(partial.scores, ids, 1)).max() > 1e-4
    hits = {(u, i) for u, row in enumerate(ids.tolist()) for i in row}
    recalls = [
        np.mean([(user, item) in hits for item in dataset.test[dataset.test[:, 0] == user, 1]])
        for user in np.unique(dataset.test[:, 0])
    ]
    metrics = split_evaluator(partial.problem, "test")(Vectors(ask.user_vectors, ask.item_vectors))
    assert np.mean(recalls) == pytest.approx(metrics[f"recall@{k}"], abs=1e-6)


def recall(scores, relevant, k):
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    hits = np.take_along_axis(relevant, top, 1).sum(axis=1)
    return (hits / relevant.sum(axis=1)).mean()


def test_evaluation_of_cold_items(run):
    ask = run.recommender
    dataset, cold = run.dataset, run.problem.cold
    among_cold, among_all = evaluate_cold_items(run.problem, ask)
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
    actual = content_vectors(dataset, cold.items)
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


def test_cold_items_of_partial_data_are_ranked_by_what_they_have(partial):
    dataset, cold = partial.dataset, partial.problem.cold
    some = np.any(list(dataset.presence.values()), axis=0)
    known = cold.items[some[cold.items]]
    assert 0 < len(known) < len(cold.items)
    with pytest.warns(DatasetWarning, match="cold items have no modality"):
        among_cold, _ = evaluate_cold_items(partial.problem, partial.recommender)
    features = {
        m: np.where(dataset.presence[m][known][:, None], x[known], np.nan)
        for m, x in dataset.features.items()
    }
    vectors = partial.recommender.item_vectors_from_features(features)
    relevant = np.zeros((dataset.n_users, dataset.n_items), bool)
    relevant[tuple(cold.interactions.T)] = True
    relevant = relevant[:, known]
    users = np.flatnonzero(relevant.any(axis=1))
    scores = matmul(partial.recommender.user_vectors[users], jnp.asarray(vectors).T, "bfloat16")
    expected = recall(np.asarray(scores), relevant[users], 5)
    assert among_cold["MMSSL"]["recall@5"] == pytest.approx(expected)
    assert among_cold["MMSSL"]["users"] == len(users)
    # Features that are not there are large, and would show.
    assert np.abs(content_vectors(dataset, known)[0]).max() <= 1
    content = np.zeros((dataset.n_users, len(known)))
    for m, present in dataset.presence.items():
        raw = np.where(present[:, None], dataset.features[m], 0)
        total = np.zeros((dataset.n_users, raw.shape[1]))
        for user, item in dataset.train.tolist():
            total[user] += raw[item]
        content += unit(total) @ unit(raw[known]).T
    of_users, of_items = content_vectors(dataset, known)
    np.testing.assert_allclose(of_users @ of_items.T, content, atol=1e-5)
