"""A disk that is full at one of five points of a run: one message, and nothing lost."""

import os
import shutil
import subprocess

import pytest

from mmssl_jax.cli.train import train_command
from mmssl_jax.training import conclude, epochs, loop
from tests.faults.runs import outcome, settings

EPOCHS = 4


@pytest.fixture
def disk(tmp_path):
    """A file system of four megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a disk of a chosen size needs the right to mount one")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk):
    """Leaves no byte free."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


POINTS = {
    "the first file": (loop, "write_json", 1),
    "a line of the log": (epochs, "append_record", 2),
    "the first checkpoint": (epochs, "save_checkpoint", 1),
    "a later checkpoint": (epochs, "save_checkpoint", 4),
    "the result": (conclude, "write_per_user", 1),
}


SHORT = ("a line of the log", "a later checkpoint")  # the others are slow tests


@pytest.mark.parametrize(
    "point",
    [pytest.param(p, marks=[] if p in SHORT else pytest.mark.slow) for p in POINTS],
)
def test_a_full_disk(point, disk, data, tmp_path, monkeypatch, capfd):
    alone, run = tmp_path / "alone", disk / "run"
    train_command([*settings(data, EPOCHS), f"--run={alone}"])
    module, name, number = POINTS[point]
    real, calls = getattr(module, name), 0

    def called(*arguments):
        nonlocal calls
        calls += 1
        if calls == number:
            fill(disk)
        return real(*arguments)

    monkeypatch.setattr(module, name, called)
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        train_command([*settings(data, EPOCHS), f"--run={run}"])
    monkeypatch.undo()
    said = capfd.readouterr()
    assert end.value.code == 2
    assert "No space left" in said.err
    assert str(disk) in said.err
    assert "Traceback" not in said.out + said.err
    os.remove(disk / "filler")
    begun = (run / "config.yaml").is_file()
    train_command([*settings(data, EPOCHS), f"--run={run}", *(["--resume"] if begun else [])])
    assert outcome(run) == outcome(alone)
