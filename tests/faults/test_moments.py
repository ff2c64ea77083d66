"""What lies on the disk at every moment of a run's saves is enough to go on to the same end.

Python tells of each file that it opens, renames, makes or deletes, before it does so. At each of
these moments, of the last epochs of a run, its directory is copied: the copy is what a process that
is killed then leaves behind.
"""

import os
import shutil
import sys

import pytest

from mmssl_jax.cli.train import train_command
from mmssl_jax.records.log import read_records
from tests.faults.runs import outcome, settings

EPOCHS = 4
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")


class Watch:
    """Copies a run's directory before each change to it, while `run` is set."""

    run, copies, busy = None, None, False

    def __call__(self, event, arguments):
        if self.run is None or self.busy or event not in EVENTS:
            return
        path = arguments[0]
        reads = event == "open" and len(arguments) > 2 and not arguments[2] & os.O_CREAT
        if reads or not isinstance(path, str | os.PathLike) or str(self.run) not in str(path):
            return
        self.busy = True
        try:
            copy = self.copies / f"{len(list(self.copies.iterdir())):04d}"
            shutil.copytree(self.run, copy, symlinks=True)
        except (shutil.Error, OSError):  # a thread of the checkpoints changed something meanwhile
            shutil.rmtree(copy, ignore_errors=True)
        finally:
            self.busy = False


@pytest.fixture(scope="module")
def moments(data):
    """The copies, and the outcome of the run."""
    watch, run = Watch(), data.parent / "watched"
    watch.copies = data.parent / "moments"
    watch.copies.mkdir()
    sys.addaudithook(watch)  # for as long as the process lives, so it can be switched off
    watch.run = run
    try:
        train_command([*settings(data, EPOCHS), f"--run={run}"])
    finally:
        watch.run = None
    return sorted(watch.copies.iterdir()), outcome(run)


def goes_on(copy, data, expected):
    begun = (copy / "config.yaml").is_file()
    train_command([*settings(data, EPOCHS), f"--run={copy}", *(["--resume"] if begun else [])])
    assert outcome(copy) == expected


def test_some_moments(moments, data, capsys):
    copies, expected = moments
    assert len(copies) > 40
    assert len({len(read_records(copy / "metrics.jsonl")) for copy in copies}) > EPOCHS
    for copy in copies[5 :: len(copies) // 4]:
        goes_on(copy, data, expected)
    capsys.readouterr()


@pytest.mark.slow
def test_every_moment(moments, data, capsys):
    copies, expected = moments
    for copy in copies:
        if copy.is_dir():
            goes_on(copy, data, expected)
    capsys.readouterr()
