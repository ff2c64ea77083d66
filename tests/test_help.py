"""Every command shows its help, in which every flag has a text of its own; all in this process."""

import argparse
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    ".".join(path.parent.relative_to(ROOT).parts)
    for path in (ROOT / "mmssl_jax").rglob("__main__.py")
)
SCRIPTS = ["train.py", "eval.py", "examples/make_shop.py", "examples/ann.py"]


@pytest.fixture
def shown(monkeypatch):
    """The parsers whose help was asked for."""
    parsers = []
    original = argparse.ArgumentParser.print_help

    def print_help(self, file=None):
        parsers.append(self)
        original(self, file)

    monkeypatch.setattr(argparse.ArgumentParser, "print_help", print_help)
    return parsers


def run_with_help(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a command as Python would, with the flag --help."""
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    if command.endswith(".py"):
        runpy.run_path(str(ROOT / command), run_name="__main__")
    else:
        sys.modules.pop(f"{command}.__main__", None)
        runpy.run_module(command, run_name="__main__")


def undocumented(parser: argparse.ArgumentParser) -> list[str]:
    """The arguments of a parser that have no help."""
    return [
        "/".join(action.option_strings) or action.dest
        for action in parser._actions
        if not (action.help or "").strip()
    ]


def test_there_are_commands():
    assert {
        f"mmssl_jax.{name}" for name in ("data.check", "prepare", "report", "study", "tune")
    } <= set(MODULES)


@pytest.mark.parametrize("command", [*MODULES, *SCRIPTS])
def test_help_documents_every_flag(command, monkeypatch, shown, capsys):
    if command == "examples/make_shop.py":
        pytest.importorskip("PIL", reason="needs the extra `encoders`")
    with pytest.raises(SystemExit) as leaving:
        run_with_help(command, monkeypatch)
    printed = capsys.readouterr()
    assert leaving.value.code == 0
    assert printed.err == ""
    assert printed.out.startswith("usage: ")
    assert shown
    assert len(shown[-1]._actions) > 1
    assert undocumented(shown[-1]) == []


def test_a_flag_without_help_would_be_found():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    assert undocumented(parser) == ["--seed"]
