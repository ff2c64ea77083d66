"""Epochs in pieces: the same numbers, and a run that dies within one goes on within it."""

import json
import math

import jax
import numpy as np
import pytest

from mmssl_jax.checkpoint import open_checkpoints, restore_record
from mmssl_jax.config import override
from mmssl_jax.methods.lattice import LatticeConfig
from mmssl_jax.methods.mf import MFConfig
from mmssl_jax.records.log import read_records
from mmssl_jax.training import loop, pieces
from mmssl_jax.training.errors import DivergedError
from mmssl_jax.training.loop import fit
from mmssl_jax.training.part import Part
from mmssl_jax.training.pieces import piece_length
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_programs, compile_training
from tests.problems import tiny_dataset

SHARED = {
    "data.format": "synthetic",
    "sampling.batch_size": 24,
    "eval.ks": (5, 20),
    "eval.block_users": 16,
    "train.epochs": 3,
    "train.patience": 100,
}
# MF, and a method that does something before an epoch and keeps it until the next.
METHODS = {
    "mf": override(MFConfig(), {**SHARED, "mf.dim": 4}),
    "lattice": override(LatticeConfig(), {**SHARED, "lattice.dim": 4, "lattice.k": 3}),
}
TINY_MINUTES = {"train.checkpoint_minutes": 1e-9}  # pieces of one step, each saved


class Dies(BaseException):
    """Stands for the death of the process."""


def outcome(run):
    records = [record | {"seconds": 0} for record in read_records(run / "metrics.jsonl")]
    return records, json.loads((run / "result.json").read_text())


@pytest.mark.parametrize(
    ("minutes", "seconds", "n_steps", "expected"),
    [
        (0, 5.0, 100, 100),  # no checkpoints within an epoch
        (10, 0.0, 100, 100),  # nothing known yet
        (10, 1.0, 20, 20),  # a short rest
        (10, 1.0, 21, 20),  # else pieces of 20 seconds
        (0.1, 1.0, 21, 6),  # or of the time between two checkpoints, if that is shorter
        (10, 100.0, 601, 1),
    ],
)
def test_the_length_of_a_piece(minutes, seconds, n_steps, expected):
    assert piece_length(float(minutes), seconds, n_steps) == expected


def test_a_long_epoch_is_saved_as_often_as_is_asked(tmp_path, monkeypatch):
    """A clock by which each step takes six seconds."""
    real, saved, clock = pieces.save_part, [], [0.0]
    monkeypatch.setattr(pieces.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(pieces, "save_part", lambda *of: (saved.append(of[2].steps), real(*of)))
    compiled = compile_programs

    def slow_programs(*arguments):
        programs = compiled(*arguments)

        def go_on(state, tally, n):
            clock[0] += 6.0 * n
            return programs.training.go_on(state, tally, n)

        return programs._replace(training=programs.training._replace(go_on=go_on))

    monkeypatch.setattr(loop, "compile_programs", slow_programs)
    config = override(METHODS["mf"], {"train.epochs": 1, "train.checkpoint_minutes": 0.2})
    fit(config, tmp_path / "run", dataset=tiny_dataset(), quiet=True)
    assert saved == [2, 4, 6, 8]  # every 12 seconds, in pieces of two steps; the epoch has ten


def test_a_part_that_is_not_finite_is_not_saved(tmp_path, monkeypatch):
    real = pieces.save_part

    def save_part(problem, programs, begun, progress, outlets):
        broken = jax.tree.map(lambda leaf: leaf * np.nan, begun.state.method.params)
        state = begun.state._replace(method=begun.state.method._replace(params=broken))
        real(problem, programs, begun._replace(state=state), progress, outlets)

    monkeypatch.setattr(pieces, "save_part", save_part)
    config = override(METHODS["mf"], TINY_MINUTES)
    with pytest.raises(DivergedError, match=r"method/params/\S+ not finite"):
        fit(config, tmp_path / "run", dataset=tiny_dataset(), quiet=True)
    assert not list((tmp_path / "run" / "checkpoints" / "last").iterdir())


def test_fewer_steps_than_were_done_within_an_epoch(tmp_path, monkeypatch):
    run, real = tmp_path / "run", pieces.save_part

    def save_part(*arguments):
        real(*arguments)
        if arguments[2].steps == 6:
            raise Dies

    with monkeypatch.context() as patch:
        patch.setattr(pieces, "save_part", save_part)
        with pytest.raises(Dies):
            fit(override(METHODS["mf"], TINY_MINUTES), run, dataset=tiny_dataset(), quiet=True)
    fit(override(METHODS["mf"], {"train.max_steps": 3}), run, True, tiny_dataset(), quiet=True)
    assert [record["step"] for record in read_records(run / "metrics.jsonl")] == [6]


@pytest.mark.parametrize("name", ["mf", pytest.param("lattice", marks=pytest.mark.slow)])
def test_died_within_an_epoch(name, tmp_path, monkeypatch):
    config, dataset = METHODS[name], tiny_dataset()
    fit(config, tmp_path / "alone", dataset=dataset, quiet=True)
    run, real, saved = tmp_path / "run", pieces.save_part, []

    def save_part(problem, programs, begun, progress, outlets):
        real(problem, programs, begun, progress, outlets)
        saved.append((progress.epochs, begun.steps))
        if saved[-1] == (1, 3):
            raise Dies

    with monkeypatch.context() as patch:
        patch.setattr(pieces, "save_part", save_part)
        with pytest.raises(Dies):
            fit(override(config, TINY_MINUTES), run, dataset=dataset, quiet=True)
    assert (0, 2) in saved
    with open_checkpoints(run, "last", read_only=True) as last:
        record = restore_record(last)
    assert record["part"]["steps"] == 3
    assert math.isfinite(record["part"]["means"]["bpr"])
    fit(config, run, True, dataset, quiet=True)
    assert outcome(run) == outcome(tmp_path / "alone")


def test_the_means_do_not_depend_on_the_pieces():
    problem = load_problem(METHODS["mf"], tiny_dataset())
    training = compile_training(problem)
    _, whole = training.epoch(new_state(problem), 7)
    state, tally = training.start_epoch(new_state(problem)), training.no_tally
    values = []
    for n in (1, 4, 2):
        state, tally = training.go_on(state, Part.of(tally).tally(training.no_tally), n)
    for name, value in whole.items():
        assert float(value) == float(tally.means[name])
    assert int(tally.steps) == 7
    state = new_state(problem)
    for _ in range(7):
        state, metrics = training.steps(state, 1)
        values.append(float(metrics["bpr"]))
    assert float(whole["bpr"]) == pytest.approx(np.mean(values), rel=1e-6)


def test_the_first_step_that_is_not_finite_is_kept():
    problem = load_problem(METHODS["mf"], tiny_dataset())
    training, state = compile_training(problem), new_state(problem)
    state, tally = training.go_on(state, training.no_tally, 2)
    assert set(Part.of(tally).broken.values()) == {-1}
    broken = jax.tree.map(lambda leaf: leaf * np.nan, state.method.params)
    state = state._replace(method=state.method._replace(params=broken))
    _, tally = training.go_on(state, tally, 3)
    assert Part.of(tally).broken["bpr"] == 2
