"""Metrics of each user, against a count by loops and the evaluator's means."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.method import ItemWeights, Vectors
from mmssl_jax.ranking.evaluate import HeldOut
from mmssl_jax.ranking.lists import Scoring
from mmssl_jax.ranking.per_user import PerUser, per_user_metrics, read_per_user, write_per_user
from tests.test_evaluate import KS, N_ITEMS, N_USERS, brute_force, evaluator_of, problem

__all__ = ["problem"]  # a fixture

SCORING = Scoring(ks=KS, block_users=16, block_items=7)
METRICS = ("ndcg@10", "recall@10", "recall@3")


@pytest.mark.parametrize("masks_validation", [False, True])
def test_each_user_is_measured_as_by_loops(problem, masks_validation):
    train, validation, test, users, items = problem
    split = HeldOut(N_USERS, N_ITEMS, train, test, validation if masks_validation else None)
    found = per_user_metrics(
        Vectors(jnp.asarray(users), jnp.asarray(items)), split, SCORING, METRICS
    )
    np.testing.assert_array_equal(found["users"], np.unique(test[:, 0]))
    for place, user in enumerate(found["users"]):
        own = test[test[:, 0] == user]
        expected = brute_force(split.seen, own, users, items)
        for metric in METRICS:
            assert found[metric][place] == pytest.approx(expected[metric], abs=1e-6)
    np.testing.assert_array_equal(found["held_out"], np.unique(test, axis=0))
    for (user, item), is_found in zip(found["held_out"], found["found@10"], strict=True):
        alone = brute_force(split.seen, np.array([[user, item]]), users, items)
        assert is_found == alone["hit_ratio@10"]


def test_means_are_those_of_the_evaluator(problem):
    train, _, test, users, items = problem
    scorer = Vectors(jnp.asarray(users), jnp.asarray(items))
    found = per_user_metrics(scorer, HeldOut(N_USERS, N_ITEMS, train, test), SCORING, METRICS)
    whole = evaluator_of(train, test)(users, items)
    assert len(found["users"]) == whole["users"]
    for metric in METRICS:
        assert found[metric].mean() == pytest.approx(whole[metric], abs=1e-6)


def test_item_weights_are_measured_too_and_lists_are_no_longer_than_the_catalogue(problem):
    train, _, test, _, items = problem
    every = jnp.broadcast_to(jnp.arange(N_ITEMS), (N_ITEMS, N_ITEMS))
    weights = ItemWeights(every, jnp.asarray(items @ items.T))
    split = HeldOut(N_USERS, N_ITEMS, train, test)
    found = per_user_metrics(weights, split, SCORING, ("recall@100",))
    np.testing.assert_array_equal(found["recall@100"], 1.0)  # everything unseen is in the list


def whole() -> PerUser:
    return {
        "users": np.arange(3, dtype=np.int32),
        "recall@20": np.ones(3, np.float32),
        "ndcg@20": np.ones(3, np.float32),
        "held_out": np.zeros((4, 2), np.int32),
        "found@20": np.ones(4, bool),
    }


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("users", np.array([0, 2, 1])),
        ("users", np.arange(4)),
        ("users", np.ones(3)),
        ("recall@20", np.ones(2)),
        ("recall@20", np.full(3, np.nan)),
        ("ndcg@20", np.array(["a", "b", "c"])),
        ("held_out", np.zeros((4, 3), int)),
        ("held_out", np.array(5)),
        ("found@20", np.ones(3, bool)),
        ("found@20", None),
    ],
)
def test_what_does_not_belong_together_is_damaged(tmp_path, name, values):
    found = whole() | {name: values}
    write_per_user(tmp_path, {key: x for key, x in found.items() if x is not None})
    with pytest.raises(DatasetError, match=r"per_user\.npz: damaged .* remove the"):
        read_per_user(tmp_path)


def test_what_is_written_is_read_back(tmp_path):
    assert read_per_user(tmp_path) is None
    written = whole()
    write_per_user(tmp_path, written)
    read = read_per_user(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["per_user.npz"]
    assert read.keys() == written.keys()
    for name, values in written.items():
        np.testing.assert_array_equal(read[name], values)
        assert read[name].dtype == values.dtype
