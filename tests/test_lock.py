"""One writer per folder."""

import signal
import subprocess
import sys
import time

import pytest

from mmssl_jax.training.errors import RunError
from mmssl_jax.training.lock import only_writer

HOLD = """
import sys, time
from pathlib import Path
from mmssl_jax.training.lock import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_writer_is_refused_and_told_of_the_first(tmp_path, holder):
    with pytest.raises(RunError, match=f"in use by process {holder.pid}: two writers"):  # noqa: SIM117
        with only_writer(tmp_path / "run"):
            pass


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / "lock").is_file()
    with only_writer(tmp_path / "run"):
        pass


def test_a_lock_ends_with_its_block(tmp_path):
    for _ in range(2):
        with only_writer(tmp_path / "run"):
            pass
    with pytest.raises(ValueError, match="inside"), only_writer(tmp_path / "run"):
        raise ValueError("inside")
    with only_writer(tmp_path / "run"):
        pass


def test_of_two_starts_at_once_one_holds_the_lock(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        while all(process.poll() is None for process in both):
            time.sleep(0.05)
        (refused,) = (process for process in both if process.poll() is not None)
        assert "in use by process" in refused.communicate()[1]
        (holder,) = (process for process in both if process is not refused)
        assert holder.stdout.readline() == "held\n"
    finally:
        for process in both:
            process.kill()
            process.communicate()
