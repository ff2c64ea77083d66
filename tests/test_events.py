"""TensorBoard events: every step once, also after a resume; a clear error without the writer."""

import importlib.util
import json
import struct
from pathlib import Path

import pytest

from mmssl_jax.cli.train import train_command
from mmssl_jax.config import ConfigError, TrainConfig
from mmssl_jax.records.events import event_writer, require_tensorboard
from mmssl_jax.records.log import append_record, keep_records_until
from tests.problems import CHANGES, flags

ON = TrainConfig(tensorboard=True)


def records(n: int) -> list[dict]:
    return [
        {
            "epoch": e,
            "step": 5 * (e + 1),
            "seconds": 0.5,
            "bpr": 0.5 / (e + 1),
            "validation/recall@20": 0.25 * e,
        }
        for e in range(n)
    ]


def write_run(run: Path, new: list[dict], final: dict | None = None) -> None:
    """What training does: the log, then the events, of each epoch."""
    with event_writer(ON, run) as write:
        for record in new:
            append_record(run / "metrics.jsonl", record)
            write(record)
        if final:
            write(final)


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """{tag: [(step, value)]} of all event files, read by the record format's definition."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted((run / "tensorboard").glob("events.out.tfevents.*")):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 16 + length
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


@pytest.fixture
def writer():
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")


@pytest.mark.extras
@pytest.mark.usefixtures("writer")
def test_losses_and_metrics_by_step(tmp_path):
    write_run(tmp_path, records(3), {"step": 10, "test/recall@20": 0.125})
    assert scalars(tmp_path) == {
        "train/bpr": [(5, 0.5), (10, 0.25), (15, pytest.approx(0.5 / 3))],
        "train/seconds": [(5, 0.5), (10, 0.5), (15, 0.5)],
        "validation/recall_at_20": [(5, 0), (10, 0.25), (15, 0.5)],
        "test/recall_at_20": [(10, 0.125)],
    }


@pytest.mark.extras
@pytest.mark.usefixtures("writer")
def test_a_resumed_run_has_every_step_once(tmp_path):
    write_run(tmp_path, records(3), {"step": 5, "test/recall@20": 0.5})
    keep_records_until(tmp_path / "metrics.jsonl", 10)  # the last checkpoint was earlier
    write_run(tmp_path, records(4)[2:], {"step": 20, "test/recall@20": 0.75})
    found = scalars(tmp_path)
    assert [step for step, _ in found["train/bpr"]] == [5, 10, 15, 20]
    assert found["test/recall_at_20"] == [(20, 0.75)]


@pytest.mark.extras
@pytest.mark.usefixtures("writer")
def test_a_finished_run_resumed_keeps_all(tmp_path):
    write_run(tmp_path, records(3))
    write_run(tmp_path, [], {"step": 5, "test/recall@20": 0.5})
    found = scalars(tmp_path)
    assert [step for step, _ in found["train/bpr"]] == [5, 10, 15]
    assert found["test/recall_at_20"] == [(5, 0.5)]


@pytest.mark.extras
@pytest.mark.usefixtures("writer")
@pytest.mark.slow
def test_training_writes_them_and_the_setting_may_change(tmp_path, capsys):
    run = tmp_path / "run"
    train_command([*flags({**CHANGES, "train.epochs": 1, "train.max_steps": 1}), f"--run={run}"])
    assert not (run / "tensorboard").exists()
    resume = ["--train.tensorboard=true", "--train.max_steps=2", f"--run={run}", "--resume"]
    train_command(resume)
    capsys.readouterr()
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found, result = scalars(run), json.loads((run / "result.json").read_text())
    assert found["train/bpr"] == [(r["step"], pytest.approx(r["bpr"], rel=1e-6)) for r in logged]
    assert found["test/ndcg_at_5"] == [
        (result["best_step"], pytest.approx(result["test"]["ndcg@5"], rel=1e-6))
    ]


def test_without_the_setting_nothing_is_written(tmp_path):
    with event_writer(TrainConfig(), tmp_path) as write:
        write({"step": 1, "bpr": 0.5})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_writer_is_refused_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_tensorboard(TrainConfig())
    with pytest.raises(ConfigError, match=r"pip install 'mmssl_jax\[tensorboard\]'"):
        require_tensorboard(ON)
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as leaving:
        train_command([*flags(CHANGES), "--train.tensorboard=true", f"--run={run}"])
    assert leaving.value.code == 2
    assert "tensorboardX is not installed" in capsys.readouterr().err
    assert not run.exists()
