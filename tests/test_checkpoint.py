"""Checkpoints: exact trees of every kind of leaf, one kept, whole ones only."""

import gc
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.checkpoint import (
    CheckpointError,
    open_checkpoints,
    restore_record,
    restore_tree,
    save_checkpoint,
)
from mmssl_jax.parallel import local_devices, replicate
from mmssl_jax.training.problem import load_problem, new_state
from tests.problems import PRESETS, tiny_config, tiny_dataset

RECORD = {"progress": {"best": 0.1234567890123456, "epochs": 3}, "validation": {"recall@20": 1 / 3}}


def tree(scale: float = 1.0, width: int = 3):
    return {
        "float": scale * jnp.linspace(0, 1, 2 * width).reshape(2, width),
        "int": jnp.int32(7),
        "bool": jnp.array([True, False]),
        "key": jax.random.key(3),
    }


def save(run, which, step, what, record=RECORD):
    with open_checkpoints(run, which) as manager:
        save_checkpoint(manager, step, what, record)
        manager.wait_until_finished()


def equal(one, other):
    def plain(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(plain(a), plain(b))


def test_a_tree_and_its_record_come_back_exactly(tmp_path):
    save(tmp_path, "best", 5, tree())
    with open_checkpoints(tmp_path, "best", read_only=True) as manager:
        equal(restore_tree(manager, tree(scale=0.0)), tree())
        assert restore_record(manager) == RECORD


@pytest.mark.parametrize("preset", PRESETS)
def test_a_training_state_comes_back_exactly(tmp_path, preset):
    problem = load_problem(tiny_config(preset), tiny_dataset())
    state = new_state(problem)
    save(tmp_path, "last", 0, state)
    other = load_problem(tiny_config(preset, {"train.seed": 1}), tiny_dataset())
    with open_checkpoints(tmp_path, "last") as manager:
        equal(restore_tree(manager, new_state(other)), state)


def test_the_tree_goes_to_the_devices_of_its_likeness(tmp_path):
    save(tmp_path, "last", 0, replicate(tree(), local_devices(1)))
    with open_checkpoints(tmp_path, "last") as manager:
        found = restore_tree(manager, replicate(tree(0.0), local_devices(4)))
    equal(found, tree())
    assert found["float"].sharding.num_devices == 4
    assert found["float"].sharding.is_fully_replicated


def test_the_newest_is_kept(tmp_path):
    with open_checkpoints(tmp_path, "last") as manager:
        for step in (5, 10, 15):
            save_checkpoint(manager, step, tree(scale=step), {"step": step})
        manager.wait_until_finished()
    assert [path.name for path in (tmp_path / "checkpoints" / "last").iterdir()] == ["15"]
    with open_checkpoints(tmp_path, "last") as manager:
        equal(restore_tree(manager, tree()), tree(scale=15))
        assert restore_record(manager) == {"step": 15}


def test_best_and_last_stand_apart(tmp_path):
    save(tmp_path, "best", 5, tree(1.0))
    save(tmp_path, "last", 10, tree(2.0))
    with open_checkpoints(tmp_path, "best") as best, open_checkpoints(tmp_path, "last") as last:
        equal(restore_tree(best, tree()), tree(1.0))
        equal(restore_tree(last, tree()), tree(2.0))


def test_a_step_that_is_there_is_replaced(tmp_path):
    save(tmp_path, "best", 5, tree(1.0), {"save": 1})
    save(tmp_path, "best", 5, tree(2.0), {"save": 2})
    with open_checkpoints(tmp_path, "best") as manager:
        assert restore_record(manager) == {"save": 2}
        equal(restore_tree(manager, tree()), tree(2.0))


def test_an_unfinished_checkpoint_is_passed_over(tmp_path):
    save(tmp_path, "last", 5, tree())
    whole = tmp_path / "checkpoints" / "last" / "5"
    (whole.parent / "10.orbax-checkpoint-tmp-123").mkdir()
    with open_checkpoints(tmp_path, "last") as manager:
        assert manager.latest_step() == 5
        equal(restore_tree(manager, tree(0.0)), tree())
        save_checkpoint(manager, 10, tree(3.0), RECORD)
        manager.wait_until_finished()
    assert (whole.parent / "10").is_dir()
    assert not whole.exists()


def test_reading_creates_and_deletes_nothing(tmp_path):
    with pytest.raises(CheckpointError, match=r"is .* the directory of a run"):
        open_checkpoints(tmp_path, "best", read_only=True)
    assert list(tmp_path.iterdir()) == []
    save(tmp_path, "best", 5, tree())
    before = sorted(tmp_path.rglob("*"))
    with open_checkpoints(tmp_path, "best", read_only=True) as manager:
        restore_tree(manager, tree())
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_saved_yet(tmp_path):
    with open_checkpoints(tmp_path, "best") as manager:
        with pytest.raises(CheckpointError, match="no finished checkpoint"):
            restore_tree(manager, tree())
        with pytest.raises(CheckpointError, match="no finished checkpoint"):
            restore_record(manager)


# Orbax leaves reads behind that find their event loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("wrong", [tree(width=4), {"float": jnp.ones((2, 3))}])
def test_a_tree_of_another_shape_or_name(tmp_path, wrong):
    save(tmp_path, "best", 5, tree())
    with (
        open_checkpoints(tmp_path, "best") as manager,
        pytest.raises(CheckpointError, match="does not fit the model of its run"),
    ):
        restore_tree(manager, wrong)
    time.sleep(0.5)  # until those reads are done
    gc.collect()
