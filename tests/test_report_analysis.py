"""The analysis of a report against small NumPy."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.method import Vectors
from mmssl_jax.ranking.evaluate import HeldOut
from mmssl_jax.ranking.lists import Scoring
from mmssl_jax.report.analysis import (
    concentration,
    found_by_popularity,
    group_bounds,
    group_labels,
    group_of,
    item_counts,
    list_metrics,
    metrics_by_activity,
    principal_map,
    weight_distribution,
)
from mmssl_jax.report.lists import NO_ITEM, Lists, rank_lists
from mmssl_jax.report.run import MODEL, analyse
from mmssl_jax.report.samples import sample_recommendations, sample_rows
from mmssl_jax.report.sections import ACTIVITY
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_embedding, split_evaluator
from tests.problems import tiny_config, tiny_dataset

K = 7


@pytest.fixture(scope="module")
def data():
    return tiny_dataset()


@pytest.fixture(scope="module")
def vectors(data):
    rng = np.random.default_rng(3)
    return rng.normal(size=(data.n_users, 4)), rng.normal(size=(data.n_items, 4))


@pytest.fixture(scope="module")
def lists(data, vectors):
    return ranked(data, vectors)


def ranked(data, vectors, k=K, block_users=7) -> Lists:
    on_device = Vectors(*(jnp.asarray(side, jnp.float32) for side in vectors))
    split = HeldOut(data.n_users, data.n_items, data.train, data.test)
    return rank_lists(on_device, split, k, Scoring(block_users=block_users))


def items_of(edges, user) -> list[int]:
    return edges[edges[:, 0] == user, 1].tolist()


def dense_list(data, vectors, user) -> list[int]:
    scores = vectors[0][user] @ vectors[1].T
    scores[items_of(data.train, user)] = -np.inf
    return np.argsort(-scores, kind="stable")[:K].tolist()


def dense_metrics(data, vectors, users) -> tuple[float, float]:
    """recall@K and ndcg@K by loops."""
    recall, ndcg = [], []
    for user in users:
        wanted = items_of(data.test, user)
        hits = [item in wanted for item in dense_list(data, vectors, user)]
        ideal = sum(1 / math.log2(i + 2) for i in range(min(K, len(wanted))))
        recall.append(sum(hits) / len(wanted))
        ndcg.append(sum(h / math.log2(i + 2) for i, h in enumerate(hits)) / ideal)
    return float(np.mean(recall)), float(np.mean(ndcg))


def test_lists_are_the_dense_ranking(data, vectors, lists):
    assert lists.users.tolist() == np.unique(data.test[:, 0]).tolist()
    for row, user in enumerate(lists.users):
        wanted = items_of(data.test, user)
        assert lists.items[row].tolist() == dense_list(data, vectors, user)
        assert lists.hits[row].tolist() == [i in wanted for i in lists.items[row]]
        assert lists.held_out_counts[row] == len(wanted)


def test_lists_do_not_depend_on_the_blocks(data, vectors, lists):
    whole = ranked(data, vectors, block_users=1000)
    for one, other in zip(lists, whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_places_without_an_unseen_item_hold_no_item():
    seen = np.array([[0, 0], [0, 1]], np.int32)
    both = Vectors(jnp.ones((1, 1)), jnp.ones((3, 1)))
    found = rank_lists(both, HeldOut(1, 3, seen, np.array([[0, 2]], np.int32)), 3, Scoring())
    assert found.items.tolist() == [[2, NO_ITEM, NO_ITEM]]
    assert found.hits.tolist() == [[1, 0, 0]]
    assert item_counts(found.items, 3).tolist() == [0, 0, 1]


def test_lists_and_metrics_are_at_the_precision_of_the_run():
    """An untrained model, in whose lists rounded operands change some hits."""
    config = tiny_config(changes={"precision": "bfloat16", "game.weight": 0.0})
    problem = load_problem(config, tiny_dataset())
    state = new_state(problem)
    shown = analyse(problem, state).metrics[MODEL]
    vectors = compile_embedding(problem)(state)
    evaluated = split_evaluator(problem, "test")(vectors)
    assert {name: shown[name] for name in evaluated} == pytest.approx(evaluated, abs=1e-6)
    data = problem.dataset
    split = HeldOut(data.n_users, data.n_items, data.train, data.test)
    plain = rank_lists(vectors, split, 20, Scoring.of(config)._replace(precision="float32"))
    assert list_metrics(plain, (20,))["ndcg@20"] != pytest.approx(shown["ndcg@20"], abs=1e-6)


def test_metrics_of_all_users(data, vectors, lists):
    recall, ndcg = dense_metrics(data, vectors, lists.users)
    metrics = list_metrics(lists, (3, K))
    assert recall > 0
    assert metrics[f"recall@{K}"] == pytest.approx(recall, rel=1e-5)
    assert metrics[f"ndcg@{K}"] == pytest.approx(ndcg, rel=1e-5)
    assert metrics["users"] == len(lists.users)


def test_usual_groups_without_the_empty_ones():
    degrees = np.array([0, 1, 4, 5, 9, 10, 19, 60, 70, 2])
    assert group_bounds(degrees) == (0, 1, 5, 10, 50)
    assert group_of(degrees, (0, 1, 5, 10, 50)).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 1]
    labels = group_labels(degrees, (0, 1, 5, 10, 50))
    assert labels == ["0", "1-4", "5-9", "10-19", "60-70"]


def test_the_page_calls_the_bounds_its_own():
    assert "bounds of our own: groups from 0, 1, 5, 10, 20, 50 interactions" in ACTIVITY


def test_quartiles_where_one_group_would_hold_nearly_all():
    degrees = np.array([0, *range(100, 200)])
    bounds = group_bounds(degrees)
    sizes = np.bincount(group_of(degrees, bounds))
    assert bounds[:2] == (0, 1)
    assert sizes.tolist()[0] == 1
    assert sizes[1:].min() >= 24
    assert len(sizes) == 5


@pytest.mark.parametrize("degrees", [[3, 3, 3], [0, 0], [1], [0, 7, 7, 7, 7, 7]])
def test_groups_of_alike_users_are_never_empty(degrees):
    degrees = np.array(degrees)
    bounds = group_bounds(degrees)
    assert np.bincount(group_of(degrees, bounds), minlength=len(bounds)).min() > 0
    assert sum(map(len, group_labels(degrees, bounds))) > 0


def test_metrics_by_activity(data, vectors, lists):
    degrees = np.bincount(data.train[:, 0], minlength=data.n_users)[lists.users]
    bounds = (0, 3, 5)
    table = metrics_by_activity(lists, degrees, bounds, K)
    for place, (low, high) in enumerate([(0, 3), (3, 5), (5, 999)]):
        users = lists.users[(degrees >= low) & (degrees < high)]
        recall, ndcg = dense_metrics(data, vectors, users)
        assert table.size[place] == len(users) > 0
        assert table.values["recall"][place] == pytest.approx(recall, rel=1e-5, abs=1e-9)
        assert table.values["ndcg"][place] == pytest.approx(ndcg, rel=1e-5, abs=1e-9)


def test_found_by_popularity(data, vectors, lists):
    degrees = np.bincount(data.train[:, 1], minlength=data.n_items)
    bounds = (0, 5, 10)
    table = found_by_popularity(lists, data.test, degrees, bounds, 4)
    for place, (low, high) in enumerate([(0, 5), (5, 10), (10, 999)]):
        pairs = [(u, i) for u, i in data.test.tolist() if low <= degrees[i] < high]
        found = [i in dense_list(data, vectors, u)[:4] for u, i in pairs]
        assert table.size[place] == len(pairs) > 0
        assert table.values["found"][place] == pytest.approx(np.mean(found))
    assert sum(table.values["found"]) > 0


def test_concentration():
    degrees = np.array([9, *[1] * 8, 0])
    counts = np.array([3, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    found = concentration(counts, degrees)
    pairwise = np.abs(counts[:, None] - counts[None]).sum()  # Gini by its definition
    assert found.gini == pytest.approx(pairwise / (2 * 10 * 4))
    assert found.coverage == pytest.approx(0.2)
    assert found.mean_popularity == pytest.approx((3 * 9 + 1) / 4)
    assert found.head_share == pytest.approx(0.75)  # item 0 is the most popular tenth
    assert found.share[10] == pytest.approx(0.75)
    assert found.share[20] == pytest.approx(1.0)


@pytest.mark.parametrize(("counts", "gini"), [([2] * 10, 0.0), ([0] * 9 + [5], 0.9), ([0] * 10, 0)])
def test_gini_at_its_ends(counts, gini):
    found = concentration(np.array(counts), np.ones(10, int))
    assert found.gini == pytest.approx(gini, abs=1e-12)


def test_weight_distribution():
    weights = np.array([[0.2, 0.4, 0.4, 0.8], [0.8, 0.6, 0.6, 0.2]])
    found = weight_distribution(weights, ("a", "b"), bins=3)
    assert found["a"].edges == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert sum(found["a"].share) == pytest.approx(1)
    assert found["a"].share[2] == 0.25
    assert found["b"].mean == pytest.approx(0.55)


def test_weights_that_are_all_alike():
    found = weight_distribution(np.full((1, 5), 1.0), ("a",))
    assert found["a"].edges[0] < 1 < found["a"].edges[-1]
    assert max(found["a"].share) == 1


def test_principal_map_keeps_a_plane():
    rng = np.random.default_rng(1)
    plane = rng.normal(size=(50, 2)) * [5, 1]
    turned = plane @ np.linalg.qr(rng.normal(size=(6, 6)))[0][:2] + 3
    found = principal_map(turned)
    distances = [np.linalg.norm(x[:, None] - x[None], axis=2) for x in (plane, found.xy)]
    np.testing.assert_allclose(*distances, atol=1e-9)
    assert sum(found.explained) == pytest.approx(1)
    assert found.explained[0] > found.explained[1]


@pytest.mark.parametrize("shape", [(5, 1), (1, 4)])
def test_principal_map_of_less_than_a_plane(shape):
    found = principal_map(np.ones(shape))
    assert found.xy.shape == (shape[0], 2)
    assert not np.any(found.xy)
    assert found.explained == [0, 0]


def test_one_sample_of_each_group():
    groups = np.array([2, 0, 0, 2, 1])
    rows = sample_rows(groups, seed=4)
    assert groups[rows].tolist() == [0, 1, 2]
    assert rows == sample_rows(groups, seed=4)


def test_samples_in_raw_ids(data, lists):
    rows = [0, 5]
    names = np.array([f"item-{i}" for i in range(data.n_items)])
    named = type(data)(**{**vars(data), "item_ids": names})
    samples = sample_recommendations(named, data.test, lists, rows, 3)
    for row, sample in zip(rows, samples, strict=True):
        user = lists.users[row]
        assert sample.user == str(user)
        assert sample.train == [f"item-{i}" for i in items_of(data.train, user)]
        assert sample.held_out == [f"item-{i}" for i in items_of(data.test, user)]
        assert [item for item, _ in sample.listed] == [f"item-{i}" for i in lists.items[row, :3]]
        assert all((item in sample.held_out) == hit for item, hit in sample.listed)
