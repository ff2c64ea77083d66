"""Every `python ...` line of the README and of docs/ has flags that parse; nothing is run."""

import inspect
import itertools
import re
import runpy
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import jsonargparse
import pytest

from mmssl_jax.report.page import write_report

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Words that stand for a number; other capitals stand for paths, which any text is.
PLACEHOLDERS = {"SEED": "1"}


def commands_of(text: str) -> list[list[str]]:
    """The words after `python` of each command in a page's shell blocks."""
    found = []
    for block in re.findall(r"^```(?:bash|sh)\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                names = [Path(word).name for word in words]
                if "python" in names:
                    rest = words[names.index("python") + 1 :]
                    found.append([PLACEHOLDERS.get(word, word) for word in rest])
    return found


COMMANDS = [(page.name, words) for page in PAGES for words in commands_of(page.read_text())]


class ParsedError(Exception):
    """Raised in place of what a command does once its flags have been parsed."""


@pytest.fixture
def parse_only(monkeypatch, tmp_path):
    """Calls a command up to the first time that its flags have been parsed as a whole."""
    original = jsonargparse.ArgumentParser.parse_args

    def parse_and_stop(self, *arguments, **options):
        original(self, *arguments, **options)
        raise ParsedError

    def call(words: list[str]) -> None:
        place(tmp_path, words)
        monkeypatch.setattr(jsonargparse.ArgumentParser, "parse_args", parse_and_stop)
        monkeypatch.chdir(tmp_path)
        is_module = words[0] == "-m"
        monkeypatch.setattr(sys, "argv", words[1 if is_module else 0 :])
        if is_module:
            sys.modules.pop(f"{words[1]}.__main__", None)
            runpy.run_module(words[1], run_name="__main__")
        else:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")

    return call


def place(folder: Path, words: list[str]) -> None:
    """Puts what a command reads before its flags are whole: configs, and the runs it resumes."""
    (folder / "configs").symlink_to(ROOT / "configs")
    text = "preset: paper\n"
    for flag, value in itertools.pairwise(words):
        if flag == "--config" and not (ROOT / value).is_file():
            assert Path(value).name == "best.yaml", f"there is no {value}"
            (folder / value).parent.mkdir(parents=True)
            (folder / value).write_text(text)
        if flag == "--run" and "--resume" in words:
            (folder / value).mkdir(parents=True)
            (folder / value / "config.yaml").write_text(text)


def parses_by_the_settings(words: list[str]) -> bool:
    """Whether a command is one of the package's, whose flags jsonargparse checks."""
    return words[0] in ("train.py", "eval.py") or words[1].startswith("mmssl_jax.")


def test_there_are_commands():
    modules = {words[1] for _, words in COMMANDS if words[0] == "-m"}
    assert {"mmssl_jax.tune", "mmssl_jax.study"} <= modules
    assert len([words for _, words in COMMANDS if words[0] == "train.py"]) > 8


def test_the_recipes_switch_reduced_precision_on():
    recipes = [words for page, words in COMMANDS if page == "recipes.md"]
    assert any("--precision" in words for words in recipes)


def test_what_reports_and_notebooks_leave_behind_is_ignored():
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    sources = "".join(path.read_text() for path in (ROOT / "notebooks").glob("*.ipynb"))
    files = re.findall(r"> ([\w.-]+\.txt)", sources)
    folders = re.findall(r'os\.environ\.get\(\\"(?:RUNS|WORK)\\", \\"([\w.-]+)\\"\)', sources)
    page = inspect.signature(write_report).parameters["out"].default
    assert (set(files), set(folders)) == ({"keep-jax.txt"}, {"runs", "shop-notebook"})
    assert {f"/{name}" for name in (page, *files, *(f"{name}/" for name in folders))} <= {*ignored}


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=lambda value: " ".join(value)[:60])
def test_flags_parse(page, words, parse_only, capsys):
    if words[0] == "-m" and not parses_by_the_settings(words):
        assert find_spec(words[1]) is not None, f"{page}: there is no module {words[1]}"
        return
    if words[0].endswith(".py") and words[0] not in ("train.py", "eval.py"):
        assert (ROOT / words[0]).is_file(), f"{page}: there is no {words[0]}"
        return
    if "--help" in words:
        with pytest.raises(SystemExit) as leaving:
            parse_only(words)
        assert leaving.value.code == 0
        return
    # A run on a mounted drive is not there to resume; its flags are the same elsewhere.
    words = [word.removeprefix("/content/drive/") for word in words]
    try:
        parse_only(words)
    except ParsedError:
        return
    except SystemExit:
        pytest.fail(f"{page}: python {' '.join(words)}\n{capsys.readouterr().err}")
    pytest.fail(f"{page}: python {' '.join(words)} ended without parsing its flags")


@pytest.mark.parametrize("flag", ["--optim.lrr=1", "--train.seed=x", "--nothing"])
def test_a_wrong_flag_would_be_found(flag, parse_only):
    with pytest.raises(SystemExit) as leaving:
        parse_only(["train.py", "--config", "configs/demo.yaml", flag])
    assert leaving.value.code == 2


def test_what_is_taken_for_a_command():
    lines = "A=1 .venv/bin/python train.py --a '[x, y]'  # so\npython -m m && python b.py\n"
    text = f"python c.py\n```bash\n{lines}```\n"
    assert commands_of(text) == [["train.py", "--a", "[x, y]"], ["-m", "m"], ["b.py"]]
