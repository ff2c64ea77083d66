"""The commands of docs/report.md, at tiny sizes."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from mmssl_jax.cli.report import report_command
from mmssl_jax.cli.train import train_command
from tests.problems import CHANGES, flags

pytestmark = pytest.mark.slow  # trains or renders for minutes

pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "report.md").read_text()
TINY = flags({**CHANGES, "train.epochs": 1, "train.max_steps": 2, "eval.block_users": 256})


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def run(command: list[str]) -> None:
    """Does what a command does; a command of another kind fails the test."""
    if command[:2] == ["python", "train.py"]:
        train_command([*command[2:], *(f for f in TINY if f.split("=")[0] not in command)])
    elif command[:3] == ["python", "-m", "mmssl_jax.report"]:
        report_command(command[3:])
    else:
        (extra,) = re.fullmatch(r"pip install -e \.\[(\w+)\]", " ".join(command)).groups()
        assert (
            extra
            in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
                "optional-dependencies"
            ]
        )


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the configs, as the repository's root is."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_do_what_the_text_says(place, capsys):
    plain = [command for command in commands() if "--train.tensorboard" not in command]
    assert len(plain) == 6
    for command in plain:
        run(command)
    for name in ("report.html", "runs/compared.html"):
        assert "</html>" in (place / name).read_text()
    page = (place / "runs" / "compared.html").read_text()
    assert "differs between the runs" in page
    assert page.count("slower") > 5
    capsys.readouterr()


@pytest.mark.extras
def test_the_events_are_where_the_text_says(place, capsys):
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
    (watched,) = [command for command in commands() if "--train.tensorboard" in command]
    run(watched)
    assert "runs/watched/tensorboard" in TEXT
    assert list((place / "runs" / "watched" / "tensorboard").iterdir())
    capsys.readouterr()


def test_the_picture_is_there_and_small():
    (name,) = re.findall(r"!\[.+\]\((.+)\)", TEXT)
    picture = (ROOT / "docs" / name).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) <= 300 * 1024
