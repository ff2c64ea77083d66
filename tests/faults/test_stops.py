"""Runs that are killed or stopped at any moment, and go on to the same end."""

import random
import signal

import pytest

from mmssl_jax.cli.train import train_command
from tests.faults.runs import EPOCHS, outcome, settings, start


def slow_but(numbers, short):
    """Parameters of which all but the first few are slow."""
    return [pytest.param(n, marks=[] if n < short else pytest.mark.slow) for n in numbers]


# Where a process dies between two saves, the next one says from which it goes on.
pytestmark = pytest.mark.filterwarnings("ignore::mmssl_jax.checkpoint.CheckpointWarning")


def finish(data, run):
    """Starts a run again where it is, or anew if it had not begun."""
    resume = ["--resume"] if (run / "config.yaml").is_file() else []
    train_command([*settings(data), f"--run={run}", *resume])


def moment(number):
    """A fifth of them before the first epoch is logged, the others after any of them."""
    draw = random.Random(number)
    if number % 5 == 4:
        return 0, draw.uniform(0.5, 8)
    return draw.randrange(1, EPOCHS), draw.uniform(0, 0.1)


@pytest.mark.parametrize("number", slow_but(range(25), short=1))
def test_killed_at_a_random_moment(number, data, whole, tmp_path, capsys):
    run = tmp_path / "run"
    code, said = start(settings(data), run, moment(number), signal.SIGKILL)
    assert code in (0, -signal.SIGKILL), said
    if code:
        finish(data, run)
    assert outcome(run) == whole
    capsys.readouterr()


@pytest.mark.parametrize("number", slow_but(range(10), short=1))
def test_terminated_at_a_random_moment(number, data, whole, tmp_path, capsys):
    run = tmp_path / "run"
    code, said = start(settings(data), run, moment(100 + number), signal.SIGTERM)
    # Before the command has set its handler, the system ends it.
    assert code in (0, 143, -signal.SIGTERM), said
    assert "Traceback" not in said
    if code == 143 and "training;" in said:
        assert f"continue with: python train.py --run {run} --resume" in said
    if code:
        finish(data, run)
    assert outcome(run) == whole
    capsys.readouterr()
