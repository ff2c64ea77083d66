"""Several hosts: two processes on this machine train one run as one process does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mmssl_jax import hosts
from mmssl_jax.checkpoint import CheckpointError
from mmssl_jax.config import ConfigError, ParallelConfig, override
from mmssl_jax.files import read_regular
from mmssl_jax.hosts import HostError
from mmssl_jax.records.log import read_records
from mmssl_jax.run_config import dump_config, without_hosts
from tests.problems import flags, tiny_config, tiny_dataset, write_folder

ROOT = Path(__file__).resolve().parents[1]

# Two processes that JAX has joined already, as a caller of `fit` may do, train and evaluate.
IN_PYTHON = """
import json, sys, jax
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[1]))
from pathlib import Path
from mmssl_jax.methods.mf import MFConfig
from mmssl_jax.config import override
from mmssl_jax.training.loop import (fit)
from mmssl_jax.training.restore import evaluate_run
run, changes = Path(sys.argv[3]), json.loads(sys.argv[4])
changes = {key: tuple(x) if isinstance(x, list) else x for key, x in changes.items()}
result = fit(override(MFConfig(), changes), run, quiet=True)
print(json.dumps([result["test"], evaluate_run(str(run))]))
"""


def changes(data: Path, epochs: int = 3) -> dict:
    """Settings of a short run on a folder of data."""
    return {
        "method": "mf",
        "mf.dim": 4,
        "data.path": str(data),
        "sampling.batch_size": 48,
        "eval.ks": (5, 20),
        "eval.block_users": 16,
        "train.epochs": epochs,
        "train.patience": 10_000,
        "optim.lr": 0.05,
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folder(tiny_dataset(), tmp_path_factory.mktemp("hosts") / "data")


def environment(n_devices: int = 1) -> dict[str, str]:
    """Of a process with as many devices."""
    count = f"--xla_force_host_platform_device_count={n_devices}"
    return {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": count, "JAX_PLATFORMS": "cpu"}


def free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def start(command: list[str], n_devices: int = 1) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment(n_devices), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def start_hosts(settings: dict, run: Path, *second: str, more: str = "") -> list[subprocess.Popen]:
    """train.py as two hosts of one device each. second: flags of the second host alone."""
    place = {"parallel.coordinator": free_address(), "parallel.processes": 2}
    given = ["train.py", f"--run={run}", *more.split(), *flags(settings | place)]
    return [
        start([*given, "--parallel.process=0"]),
        start([*given, "--parallel.process=1", *second]),
    ]


def ends(processes: list[subprocess.Popen], seconds: float = 240) -> list[tuple[int, str, str]]:
    """Status, output and errors of each."""
    try:
        said = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(each.returncode, *texts) for each, texts in zip(processes, said, strict=True)]


def figures(run: Path) -> list[dict]:
    return [record | {"seconds": 0} for record in read_records(run / "metrics.jsonl")]


def assert_same_run(run: Path, other: Path) -> None:
    for one, two in zip(figures(run), figures(other), strict=True):
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_allclose(one[name], two[name], 1e-5, 1e-7, err_msg=name)
    one, two = (json.loads((r / "result.json").read_text()) for r in (run, other))
    assert one["best_epoch"] == two["best_epoch"]
    for name, value in one["test"].items():
        np.testing.assert_allclose(value, two["test"][name], 1e-5, err_msg=name)


def test_two_hosts_train_as_one_process_and_the_primary_alone_writes(data, tmp_path):
    """One process with two devices gives the same run, and so does one with one device."""
    settings, run = changes(data), tmp_path / "run"
    (status, said, _), (other, other_said, other_errors) = ends(start_hosts(settings, run))
    assert (status, other) == (0, 0), other_errors
    assert said.count("\nepoch ") == 3
    assert "evaluate again" in said
    lines = [line for line in (other_said + other_errors).splitlines() if "Gloo" not in line]
    assert lines == []  # but for what Gloo says of itself

    for n_devices in (1, 2):
        alone = tmp_path / f"alone-{n_devices}"
        ((code, _, errors),) = ends(
            [start(["train.py", f"--run={alone}", *flags(settings)], n_devices)]
        )
        assert code == 0, errors
        assert_same_run(run, alone)
        assert {p.name for p in run.iterdir()} == {p.name for p in alone.iterdir()}
    # A run may go on elsewhere: what it keeps names no host.
    assert read_regular(run / "config.yaml") == read_regular(alone / "config.yaml").replace(
        str(alone).encode(), str(run).encode()
    )
    assert len(json.loads((run / "environment.json").read_text())["devices"]) == 2


SPREAD = {
    "lightgcn": {"method": "lightgcn", "lightgcn.dim": 4},
    "paper": {
        "method": "mmssl", "model.dim": 8, "model.heads": 2, "structure.k": 3,
        "critic.hidden": (8, 4), "optim.lr": 0.01,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "n_hosts"),
    [
        ("lightgcn", 2),
        ("paper", 2),
        ("paper", 4),
    ],
)
@pytest.mark.slow
def test_rows_spread_over_hosts_train_as_on_one_device(method, n_hosts, data, tmp_path):
    """And the run goes on alone."""
    common = {key: x for key, x in changes(data, 2).items() if key != "mf.dim"} | SPREAD[method]
    place = {"parallel.coordinator": free_address(), "parallel.processes": n_hosts}
    run, alone = tmp_path / "run", tmp_path / "alone"
    given = ["train.py", f"--run={run}", *flags(common | place)]
    found = ends([start([*given, f"--parallel.process={n}"]) for n in range(n_hosts)])
    assert [status for status, _, _ in found] == [0] * n_hosts, found
    ((code, _, errors),) = ends([start(["train.py", f"--run={alone}", *flags(common)])])
    assert code == 0, errors
    assert_same_run(run, alone)
    for place in (run, alone):
        again = ["train.py", f"--run={place}", "--resume", "--train.epochs=3"]
        ((code, _, errors),) = ends([start(again)])
        assert code == 0, errors
    assert_same_run(run, alone)


@pytest.mark.slow
def test_fit_and_evaluation_in_processes_that_the_caller_has_joined(data, tmp_path):
    place, run = free_address(), str(tmp_path / "run")
    settings = json.dumps(changes(data, epochs=1))
    found = ends([start(["-c", IN_PYTHON, str(n), place, run, settings]) for n in range(2)])
    assert [status for status, _, _ in found] == [0, 0], found
    (first, again), (second, again_there) = (
        json.loads(said.strip().splitlines()[-1]) for _, said, _ in found
    )
    assert first == second
    assert again == again_there
    assert again == pytest.approx(first)


@pytest.mark.slow
def test_hosts_of_other_settings_are_refused_by_name(data, tmp_path):
    (status, _, errors), (other, _, other_errors) = ends(
        start_hosts(changes(data), tmp_path / "run", "--optim.lr=0.5")
    )
    assert (status, other) == (2, 2)
    assert "process 1 has other settings or other data" in errors
    assert "optim.lr: 0.05 there, 0.5 here" in other_errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_host_that_dies_ends_the_others_and_the_run_goes_on(victim, sent, data, tmp_path):
    run, n_epochs = tmp_path / "run", 40
    processes = start_hosts(changes(data, epochs=100_000), run)
    log, deadline = run / "metrics.jsonl", time.monotonic() + 200
    while not (log.exists() and log.read_bytes().count(b"\n") > 3):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes[victim].send_signal(sent)
    stopped_at = time.monotonic()
    found = ends(processes, 60)
    assert time.monotonic() - stopped_at < 60
    status, _, errors = found[1 - victim]
    assert status != 0
    assert f"start all hosts again with --resume, as: python train.py --run {run}" in errors
    assert "Traceback" not in errors
    if sent == signal.SIGTERM:
        assert found[victim][0] == 143
        assert f"continue with: python train.py --run {run} --resume" in found[victim][1]

    # On two hosts again, to half the way; then on one, to the end.
    half = ends(start_hosts(changes(data, n_epochs // 2), run, more="--resume"))
    assert [status for status, _, _ in half] == [0, 0], half
    (last,) = ends([start(["train.py", f"--run={run}", "--resume", f"--train.epochs={n_epochs}"])])
    assert last[0] == 0, last
    whole = tmp_path / "whole"
    (alone,) = ends([start(["train.py", f"--run={whole}", *flags(changes(data, n_epochs))])])
    assert alone[0] == 0, alone
    assert_same_run(run, whole)


@pytest.mark.slow
def test_hosts_put_a_damaged_checkpoint_aside_together(data, tmp_path):
    run = tmp_path / "run"
    assert [s for s, _, _ in ends(start_hosts(changes(data, 2), run))] == [0, 0]
    newest = max((run / "checkpoints" / "last").iterdir(), key=lambda path: int(path.name))
    for file in newest.rglob("d/*"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 255
        file.write_bytes(content)
    found = ends(start_hosts(changes(data, 4), run, more="--resume"))
    assert [status for status, _, _ in found] == [0, 0], found
    assert "is damaged" in found[0][1]
    assert (run / "checkpoints" / "damaged" / f"last-{newest.name}").is_dir()
    whole = tmp_path / "whole"
    assert ends([start(["train.py", f"--run={whole}", *flags(changes(data, 4))])])[0][0] == 0
    assert_same_run(run, whole)


# --- One process ---


def test_a_lone_host_decides_for_itself():
    assert hosts.count() == 1
    assert hosts.is_primary()
    assert hosts.everybody() == {0}
    assert hosts.from_primary(lambda: {"any": object}) == {"any": object}
    assert hosts.agreed(0.1) == 0.1
    hosts.require_same({"settings": object()})
    hosts.barrier("nobody waits")
    hosts.join(ParallelConfig())
    hosts.require_one(ParallelConfig(), "a search")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": 2}, "parallel.coordinator is empty: give the address"),
        ({"process": 1}, "parallel.coordinator is empty: give the address"),
        ({"coordinator": "auto", "processes": 2}, "leave both out"),
        ({"coordinator": "here"}, "expected HOST:PORT"),
        ({"coordinator": ":1", "processes": 2}, "expected HOST:PORT"),
        ({"coordinator": "here:0", "processes": 2}, "expected HOST:PORT"),
        ({"coordinator": "here:1"}, "parallel.processes is 1: give the number of hosts"),
        ({"coordinator": "here:1", "processes": 2, "process": 2}, "numbered from 0 to 1"),
    ],
)
def test_hosts_that_could_not_find_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ParallelConfig(**settings).check()
    with pytest.raises(ConfigError, match=message):
        hosts.join(ParallelConfig(**settings))


@pytest.mark.parametrize(
    "settings", [{}, {"coordinator": "auto"}, {"coordinator": "[::1]:99", "processes": 2}]
)
def test_hosts_that_can_be_named(settings):
    ParallelConfig(**settings).check()


def test_joining_after_jax_was_used_is_refused():
    jax.block_until_ready(jax.numpy.zeros(1))
    place = ParallelConfig(coordinator=free_address(), processes=2)
    with pytest.raises(ConfigError, match="JAX has been used in this process already"):
        hosts.join(place)
    assert hosts.count() == 1


def test_what_one_host_does_is_refused_to_several():
    with pytest.raises(ConfigError, match="a search runs on one host"):
        hosts.require_one(ParallelConfig(coordinator="auto"), "a search")


def test_a_kept_config_names_no_host():
    here = tiny_config()
    place = {"coordinator": "here:1", "process": 1, "processes": 2}
    there = override(here, {f"parallel.{name}": value for name, value in place.items()})
    assert dump_config(without_hosts(there)) == dump_config(here)


def test_errors_of_a_lost_host_are_known_for_what_they_are(monkeypatch, capfd):
    monkeypatch.setattr(hosts, "count", lambda: 2)

    def failing(error):
        with hosts.naming_lost_hosts("again"):
            raise error

    wrapped = CheckpointError("the checkpoint could not be written")
    wrapped.__cause__ = RuntimeError("Barrier failed because: task is set to ERROR")
    for error in (ValueError("UNKNOWN: Gloo AllGather failed: [..] Connection closed"), wrapped):
        with pytest.raises(HostError, match="start all hosts again with --resume, as: again"):
            failing(error)
    for other in (ValueError("of its own"), HostError("told already"), KeyboardInterrupt()):
        with pytest.raises(type(other)) as found:
            failing(other)
        assert found.value is other
    assert capfd.readouterr().err == ""


def test_a_process_that_ends_without_a_word_has_last_words():
    script = (
        "import os; from mmssl_jax import hosts; hosts.count = lambda: 2\n"
        "with hosts.naming_lost_hosts('again'): os.abort()"
    )
    ((status, _, errors),) = ends([start(["-c", script])])
    assert status == -signal.SIGABRT
    assert "start all hosts again with --resume, as: again" in errors
