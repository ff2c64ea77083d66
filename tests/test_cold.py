import dataclasses

import numpy as np
import pytest

from mmssl_jax.data.cold import hold_out_cold_items
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.training.begin import resume_run, start_run
from mmssl_jax.training.problem import load_problem
from tests.problems import tiny_config, tiny_dataset

DATASET = tiny_dataset()


def pairs(edges):
    return set(map(tuple, edges.tolist()))


def test_all_interactions_of_the_items_are_held_out_and_none_is_lost():
    kept, cold = hold_out_cold_items(DATASET, 0.25, seed=3)
    with_interactions = np.unique(np.concatenate(list(DATASET.splits.values()))[:, 1])
    assert len(cold.items) == round(0.25 * len(with_interactions))
    assert set(cold.interactions[:, 1]) == set(cold.items)
    for name, edges in kept.splits.items():
        expected = {p for p in pairs(DATASET.splits[name]) if p[1] not in set(cold.items)}
        assert pairs(edges) == expected
    everything = set.union(*(pairs(edges) for edges in DATASET.splits.values()))
    left = set.union(*(pairs(edges) for edges in kept.splits.values()))
    assert pairs(cold.interactions) == everything - left
    assert (kept.n_users, kept.n_items) == (DATASET.n_users, DATASET.n_items)
    assert kept.features is DATASET.features
    kept.check()


def test_the_choice_is_seeded():
    first, again, other = (hold_out_cold_items(DATASET, 0.3, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.items, again.items)
    np.testing.assert_array_equal(first.interactions, again.interactions)
    assert set(first.items) != set(other.items)


def test_without_a_share_nothing_changes():
    kept, cold = hold_out_cold_items(DATASET, 0.0, seed=0)
    assert kept.fingerprint() == DATASET.fingerprint()
    assert len(cold.items) == len(cold.interactions) == 0


def test_a_small_share_holds_out_one_item():
    assert len(hold_out_cold_items(DATASET, 1e-6, seed=0)[1].items) == 1


def test_nothing_left_to_train_on():
    one_item = DATASET.train[DATASET.train[:, 1] == DATASET.train[0, 1]]
    nothing = np.zeros((0, 2), np.int32)
    dataset = dataclasses.replace(DATASET, train=one_item, validation=nothing, test=nothing)
    with pytest.raises(DatasetError, match=r"data\.cold_items 0\.5 holds out 1 of 1 items"):
        hold_out_cold_items(dataset, 0.5, seed=0)


def test_a_run_is_its_cold_items_own(tmp_path):
    """The fingerprint is that of what the run trains on, so another choice is another run."""
    problem = load_problem(tiny_config(changes={"data.cold_items": 0.2}), DATASET)
    assert set(problem.cold.items).isdisjoint(problem.dataset.train[:, 1])
    assert problem.dataset.fingerprint() != DATASET.fingerprint()
    (tmp_path / "run").mkdir()
    start_run(problem, tmp_path / "run")
    resume_run(problem, tmp_path / "run")
    other = load_problem(tiny_config(changes={"data.cold_items": 0.3}), DATASET)
    with pytest.raises(Exception, match=r"data\.cold_items: 0\.2 in the run, 0\.3 now"):
        resume_run(other, tmp_path / "run")
