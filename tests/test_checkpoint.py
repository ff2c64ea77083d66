"""Checkpoints: exact trees of every kind of leaf, whole ones only, and every damage noticed."""

import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax import checkpoint
from mmssl_jax.checkpoint import (
    CheckpointError,
    open_checkpoints,
    restore_record,
    restore_tree,
    save_checkpoint,
    settle,
)
from mmssl_jax.digest import digest_words
from mmssl_jax.orbax_threads import stops_held_back
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


@pytest.mark.parametrize("which", ["last", "best"])
def test_the_newest_two_are_kept(tmp_path, which):
    with open_checkpoints(tmp_path, which) as manager:
        for step in (5, 10, 15):
            save_checkpoint(manager, step, tree(scale=step), {"step": step})
        settle(manager, tree())
    assert {path.name for path in (tmp_path / "checkpoints" / which).iterdir()} == {"10", "15"}
    with open_checkpoints(tmp_path, which) as manager:
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
        settle(manager, tree())
    assert sorted(path.name for path in whole.parent.iterdir()) == ["10", "5"]


def test_each_save_is_read_back_once(tmp_path, monkeypatch):
    real, read = checkpoint.restore_tree, []

    def restore(manager, like, step):
        read.append(step)
        return real(manager, like, step)

    monkeypatch.setattr(checkpoint, "restore_tree", restore)
    with open_checkpoints(tmp_path, "last") as manager:
        for step in (5, 10, 15, 15):
            save_checkpoint(manager, step, tree(scale=step), {"step": step})
            settle(manager, tree())
            settle(manager, tree())
    assert read == [10, 15, 15]  # before the second there is nothing that could go


def test_what_reads_back_as_something_else_costs_nothing_older(tmp_path):
    with open_checkpoints(tmp_path, "best") as manager:
        save_checkpoint(manager, 5, tree(), RECORD)
        save_checkpoint(manager, 10, tree(2.0), RECORD, digest_words(tree(3.0)))
        with pytest.raises(CheckpointError, match=r"(?s)float is not what .*Step 5 .* kept"):
            settle(manager, tree())
        equal(restore_tree(manager, tree(), 5), tree())


def files_of(folder):
    """The files that restoring reads: Orbax's own marks of time and success may say anything."""
    unread = ("_CHECKPOINT_METADATA", "commit_success.txt")
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in unread]


@pytest.mark.parametrize(
    "damage",
    ["flip", *(pytest.param(d, marks=pytest.mark.slow) for d in ("empty", "delete", "halve"))],
)
def test_every_damage_to_a_file_is_noticed_or_harmless(tmp_path, damage):
    save(tmp_path / "whole", "best", 5, tree(width=200))
    noticed = []
    for file in files_of(tmp_path / "whole"):
        damaged = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", damaged)
        spoil(damaged / file.relative_to(tmp_path / "whole"), damage)
        try:
            with open_checkpoints(damaged, "best", read_only=True) as manager:
                record = restore_record(manager, 5)
                found = restore_tree(manager, tree(width=200), 5)
        except CheckpointError as error:
            noticed.append(str(error))
        else:
            equal(found, tree(width=200))
            assert record == RECORD
        shutil.rmtree(damaged)
    assert len(noticed) >= 5
    assert all("is damaged" in message for message in noticed), noticed


def spoil(path, damage):
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
        return
    if damage == "flip":
        content[len(content) // 2] ^= 16
    path.write_bytes({"empty": b"", "halve": content[: len(content) // 2]}.get(damage, content))


def edit_record(run, which, step, change):
    """Rewrites a record as a program would that knows nothing of digests."""
    (path,) = (run / "checkpoints" / which / str(step) / "record").glob("metadata")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_a_changed_record_is_noticed(tmp_path):
    save(tmp_path, "best", 5, tree())
    edit_record(tmp_path, "best", 5, lambda record: record | {"progress": {"epochs": 4}})
    with open_checkpoints(tmp_path, "best", read_only=True) as manager:
        with pytest.raises(CheckpointError, match="damaged: it is not what was saved"):
            restore_record(manager)
        with pytest.raises(CheckpointError, match="damaged: it is not what was saved"):
            restore_tree(manager, tree())


def test_a_record_of_a_later_version_is_refused(tmp_path):
    save(tmp_path, "best", 5, tree())
    edit_record(tmp_path, "best", 5, lambda record: record | {"format": 3})
    with (
        open_checkpoints(tmp_path, "best", read_only=True) as manager,
        pytest.raises(CheckpointError, match="format 3; this version reads up to 2"),
    ):
        restore_tree(manager, tree())


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path):
    save(tmp_path, "best", 5, tree())
    edit_record(tmp_path, "best", 5, lambda record: RECORD)
    with open_checkpoints(tmp_path, "best", read_only=True) as manager:
        equal(restore_tree(manager, tree(0.0)), tree())
        assert restore_record(manager) == RECORD


@pytest.mark.parametrize("name", ["lr[0.1]", "a]b", "a\\b", "a\nb"])
def test_paths_that_cannot_be_read_back_are_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="could be written but not read back"):
        open_checkpoints(tmp_path / name, "best")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a,b", "a@b=1", "{x}", "*?", "größe", "a'b\"", "%20#&;"])
def test_other_paths_are_read_back(tmp_path, name):
    save(tmp_path / name, "best", 5, tree())
    (tmp_path / name).rename(tmp_path / "renamed")
    with open_checkpoints(tmp_path / "renamed", "best", read_only=True) as manager:
        equal(restore_tree(manager, tree(0.0)), tree())


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


@pytest.mark.parametrize("wrong", [tree(width=4), {"float": jnp.ones((2, 3))}])
def test_a_tree_of_another_shape_or_name(tmp_path, wrong):
    save(tmp_path, "best", 5, tree())
    with (
        open_checkpoints(tmp_path, "best") as manager,
        pytest.raises(CheckpointError, match="does not fit the model of its run"),
    ):
        restore_tree(manager, wrong)


def test_a_stop_waits_until_a_save_has_begun():
    """Ctrl-C within raises after it, once."""
    done = []

    def save():
        with stops_held_back():
            signal.raise_signal(signal.SIGINT)
            done.append("went on")

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # however this process was started
    try:
        with pytest.raises(KeyboardInterrupt):
            save()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["went on"]
