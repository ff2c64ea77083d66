"""Runs that are killed or stopped at any moment, and go on to the same end."""

import random
import signal

import pytest

from mmssl_jax.cli.train import train_command
from tests.faults.runs import outcome, settings, start


def slow_but(numbers, short):
    """Parameters of which all but the first few are slow."""
    return [pytest.param(n, marks=[] if n < short else pytest.mark.slow) for n in numbers]


def finish(data, run):
    """Starts a run again where it is, or anew if it had not begun."""
    resume = ["--resume"] if (run / "config.yaml").is_file() else []
    train_command([*settings(data), f"--run={run}", *resume])


@pytest.mark.parametrize("number", slow_but(range(25), short=1))
def test_killed_at_a_random_moment(number, data, whole, tmp_path, capsys):
    seconds = random.Random(number).uniform(3, 12)
    code, said = start([*settings(data), f"--run={tmp_path / 'run'}"], seconds, signal.SIGKILL)
    assert code in (0, -signal.SIGKILL), said
    if code:
        finish(data, tmp_path / "run")
    assert outcome(tmp_path / "run") == whole
    capsys.readouterr()


@pytest.mark.parametrize("number", slow_but(range(10), short=1))
def test_terminated_at_a_random_moment(number, data, whole, tmp_path, capsys):
    seconds = random.Random(100 + number).uniform(5, 12)
    code, said = start([*settings(data), f"--run={tmp_path / 'run'}"], seconds, signal.SIGTERM)
    # Before the command has set its handler, the system ends it.
    assert code in (0, 143, -signal.SIGTERM), said
    assert "Traceback" not in said
    if code == 143 and "training;" in said:
        assert f"continue with: python train.py --run {tmp_path / 'run'} --resume" in said
    if code:
        finish(data, tmp_path / "run")
    assert outcome(tmp_path / "run") == whole
    capsys.readouterr()
