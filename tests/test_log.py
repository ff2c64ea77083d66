"""The metric log and the tables."""

import json

import pytest

from mmssl_jax.records.environment import PACKAGES, environment
from mmssl_jax.records.log import (
    LogWarning,
    append_record,
    epoch_line,
    keep_records_until,
    metric_table,
    read_log,
    read_records,
    write_json,
    write_text,
)


def record_of(step: int) -> dict:
    return {"epoch": step // 5, "step": step, "seconds": 0.5, "bpr": 1 / step}


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (5, 10, 15):
        append_record(path, record_of(step))
    return path


def test_records_come_back_exactly(log):
    assert read_records(log) == [record_of(step) for step in (5, 10, 15)]


def test_an_unfinished_last_line_is_dropped(log):
    whole = read_records(log)
    log.write_text(log.read_text() + '{"step": 20, "bp')
    assert read_records(log) == whole


@pytest.mark.parametrize(("step", "kept"), [(0, []), (9, [5]), (10, [5, 10]), (99, [5, 10, 15])])
def test_records_after_a_step_are_dropped(log, step, kept):
    keep_records_until(log, step)
    assert [record["step"] for record in read_records(log)] == kept
    append_record(log, record_of(100))
    assert [record["step"] for record in read_records(log)] == [*kept, 100]


def test_a_log_that_was_cut_off_can_be_continued(log):
    log.write_text(log.read_text() + '{"step": 20, "bp')
    keep_records_until(log, 15)
    append_record(log, record_of(20))
    assert [record["step"] for record in read_records(log)] == [5, 10, 15, 20]


@pytest.mark.parametrize(
    "line",
    [
        '{"epoch": 4, "step": 20}',
        '{"step": 20, "seconds": 1.0}',
        '{"epoch": 4, "step": 20, "seconds": "1"}',
        '{"epoch": 4, "step": 20, "seconds": 1, "bpr": null}',
        '{"epoch": 4.5, "step": 20, "seconds": 1}',
        '{"epoch": 4, "step": true, "seconds": 1}',
        '{"step": 20, "note": 7}',
    ],
)
def test_a_line_that_is_no_record_is_damaged(log, line):
    log.write_text(log.read_text() + line + "\n")
    assert read_log(log).damaged == [4]
    assert len(read_log(log).records) == 3


def test_no_log_yet(tmp_path):
    keep_records_until(tmp_path / "metrics.jsonl", 0)
    assert list(tmp_path.iterdir()) == []


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_text(path, "half")
    assert json.loads(path.read_text()) == {"a": 1}


def test_epoch_line():
    record = {
        "epoch": 3,
        "bpr": 0.25,
        "critic_loss": -1.5,
        "seconds": 2.0,
        "validation/ndcg@5": 0.1,
    }
    watched = ("bpr", "generator_loss", "critic_loss")
    line = epoch_line(record, watched, "ndcg@5", True)
    for part in ("epoch    3", "bpr 0.25", "critic_loss -1.5", "val ndcg@5 0.1000 *", "2.0 s"):
        assert part in line
    assert "generator_loss" not in line
    assert "*" not in epoch_line(record, watched, "ndcg@5", False)


def test_metric_table():
    ours = {"recall@20": 0.5, "recall@5": 0.25, "ndcg@20": 0.125, "ndcg@5": 0.0625}
    lines = metric_table({"MMSSL": ours, "popularity": {k: v / 2 for k, v in ours.items()}})
    head, *rows = [line.split() for line in lines.splitlines()]
    assert head == ["ranking", "K", "recall", "ndcg"]
    assert rows == [
        ["MMSSL", "5", "0.25000", "0.06250"],
        ["MMSSL", "20", "0.50000", "0.12500"],
        ["popularity", "5", "0.12500", "0.03125"],
        ["popularity", "20", "0.25000", "0.06250"],
    ]
    assert len({len(line) for line in lines.splitlines()}) == 1  # aligned


def test_environment_names_versions_and_devices_but_no_place(tmp_path, devices):
    found = environment(devices)
    assert found["devices"] == ["cpu cpu"] * 4
    assert set(found["packages"]) == set(PACKAGES)
    assert "not installed" not in found["packages"].values()
    assert "/" not in json.dumps(found)


@pytest.fixture
def devices():
    import jax

    return jax.local_devices()


def test_damaged_lines_are_warned_of_and_passed_over(tmp_path):
    log = tmp_path / "metrics.jsonl"
    damaged = ['{"epoch": 1, "st', "[]", json.dumps({"step": 9})]
    whole = [json.dumps({"step": 5, "note": "x"}), json.dumps(record_of(15))]
    log.write_text("\n".join([json.dumps(record_of(5)), *damaged, *whole, ""]))
    with pytest.warns(LogWarning, match=r"lines 2, 3, 4 are damaged and left out; the others"):
        assert read_records(log) == [record_of(5), record_of(15)]
    assert [note["note"] for note in read_log(log).notes] == ["x"]
    assert keep_records_until(log, 15) == [2, 3, 4]
    assert read_log(log).damaged == []
