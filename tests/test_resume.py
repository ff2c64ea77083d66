"""A run that was stopped or killed, and resumed, gives bit for bit what one left alone gives."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmssl_jax.cli.train import train_command
from mmssl_jax.config import override
from mmssl_jax.records.log import read_records
from mmssl_jax.training import epochs
from mmssl_jax.training.loop import fit
from tests.problems import (
    CHANGES,
    STEPS,
    flags,
    share_programs,
    tiny_config,
    tiny_dataset,
    write_folder,
)

# Where a process dies between two saves, the next one says from which it goes on.
pytestmark = pytest.mark.filterwarnings("ignore::mmssl_jax.checkpoint.CheckpointWarning")
ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 4


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    with pytest.MonkeyPatch.context() as patch:
        share_programs(patch)
        yield


def config_of(preset: str, epochs: int = EPOCHS, max_steps: int = 0):
    return tiny_config(preset, {"train.epochs": epochs, "train.max_steps": max_steps})


def train(config, run: Path, resume: bool = False) -> dict:
    return fit(config, run, resume, tiny_dataset(), quiet=True)


def outcome(run: Path) -> tuple[list[dict], dict]:
    """Everything a run measured: all but the seconds."""
    records = read_records(run / "metrics.jsonl")
    for record in records:
        del record["seconds"]
    return records, json.loads((run / "result.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The outcome of a run left alone, by preset."""

    @functools.cache
    def run_alone(preset: str):
        run = tmp_path_factory.mktemp("alone") / preset
        train(config_of(preset), run)
        return outcome(run)

    return run_alone


class Dies(BaseException):
    """Stands for the death of the process."""


def die_at(monkeypatch, save_number: int):
    """The process dies instead of its save of that number."""
    real, count = epochs.save_checkpoint, 0

    def save(*arguments):
        nonlocal count
        count += 1
        if count == save_number:
            raise Dies
        real(*arguments)

    monkeypatch.setattr(epochs, "save_checkpoint", save)


def test_the_best_checkpoint_moves_in_these_runs(alone):
    assert alone("paper")[1]["best_epoch"] > 0


@pytest.mark.parametrize(
    ("preset", "first"),
    [
        ("paper", 1),
        pytest.param("released", 1, marks=pytest.mark.slow),
        pytest.param("paper", 2, marks=pytest.mark.slow),
        pytest.param("released", 2, marks=pytest.mark.slow),
    ],
)
def test_stopped_after_an_epoch(alone, tmp_path, preset, first):
    train(config_of(preset, epochs=first), tmp_path / "run")
    train(config_of(preset), tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == alone(preset)


@pytest.mark.parametrize("preset", ["paper", pytest.param("released", marks=pytest.mark.slow)])
def test_stopped_by_max_steps(alone, tmp_path, preset):
    train(config_of(preset, max_steps=2 * STEPS), tmp_path / "run")
    assert len(read_records(tmp_path / "run" / "metrics.jsonl")) == 2
    train(config_of(preset), tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == alone(preset)


@pytest.mark.parametrize("max_steps", [STEPS - 1, STEPS + 1])
def test_stopped_inside_an_epoch(alone, tmp_path, max_steps):
    """The part-epoch is evaluated and logged; the continued run repeats it as a whole."""
    result = train(config_of("paper", max_steps=max_steps), tmp_path / "run")
    assert read_records(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == max_steps
    assert 0 <= result["test"]["recall@20"] <= 1
    train(config_of("paper"), tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == alone("paper")


@pytest.mark.parametrize(
    "number", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))]
)
def test_died_between_two_saves(alone, tmp_path, monkeypatch, number):
    """At its first and second save of `best` and of `last`, whichever of them these are."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        die_at(patch, number)
        with pytest.raises(Dies):
            train(config_of("paper"), run)
    train(config_of("paper"), run, resume=True)
    assert outcome(run) == alone("paper")


@pytest.mark.slow
def test_died_before_its_first_checkpoint(alone, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(epochs, "check_finite", lambda *_: (_ for _ in ()).throw(Dies))
        with pytest.raises(Dies):
            train(config_of("released"), run)
    assert not (run / "metrics.jsonl").exists()
    train(config_of("released"), run, resume=True)
    assert outcome(run) == alone("released")


def test_a_finished_run_resumed_says_the_same(alone, tmp_path):
    run = tmp_path / "run"
    train(config_of("paper"), run)
    (run / "result.json").unlink()
    train(config_of("paper"), run, resume=True)
    assert outcome(run) == alone("paper")


def test_a_log_ahead_of_the_checkpoint_is_cut_back(alone, tmp_path):
    run = tmp_path / "run"
    train(config_of("paper", epochs=2), run)
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"epoch": 2, "step": 15, "bpr": 99.0, "seconds": 1}\n{"epoch": 3, "st')
    train(config_of("paper"), run, resume=True)
    assert outcome(run) == alone("paper")


@pytest.mark.slow
def test_on_another_number_of_devices(alone, tmp_path):
    """Not bit for bit: sums over devices are taken in another order."""
    run = tmp_path / "run"
    train(config_of("paper", epochs=1), run)
    train(override(config_of("paper"), {"parallel.devices": 2}), run, resume=True)
    records, _ = outcome(run)
    assert [record["step"] for record in records] == [5, 10, 15, 20]
    assert records[0] == alone("paper")[0][0]


@pytest.mark.slow
def test_killed(tmp_path, capsys):
    """A process that gets SIGKILL once it has a checkpoint, somewhere in a later epoch."""
    folder = write_folder(tiny_dataset(), tmp_path / "data")
    settings = flags(
        {**CHANGES, "data.format": "mmrec", "data.path": folder, "train.patience": 1000}
    )
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    command = [sys.executable, "train.py", *settings, f"--run={killed}", "--train.epochs=100000"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
    )
    try:
        deadline = time.monotonic() + 120
        while not list(killed.glob("checkpoints/last/[0-9]")):
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline, "no checkpoint yet"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (killed / "result.json").exists()
    epochs = len(read_records(killed / "metrics.jsonl")) + 2
    train_command([f"--run={killed}", "--resume", f"--train.epochs={epochs}"])
    train_command([*settings, f"--run={alone}", f"--train.epochs={epochs}"])
    assert outcome(killed) == outcome(alone)
    capsys.readouterr()
