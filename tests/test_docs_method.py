"""docs/method.md names functions that exist, and leaves out none of the losses and networks."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from mmssl_jax.config import flatten
from mmssl_jax.methods.mmssl.config import MMSSLConfig
from tests.test_imports import PACKAGE

TEXT = (PACKAGE.parent / "docs" / "method.md").read_text()
PARTS = {path.stem for path in PACKAGE.iterdir() if not path.stem.startswith("_")}
DOTTED = r"[a-z_0-9]+(?:\.[A-Za-z_0-9]+)+"


def names_in(text: str) -> list[str]:
    """Dotted names in backticks, and those at the end of an equation's line."""
    ticked = re.findall(rf"`({DOTTED})`", text)
    at_end = re.findall(rf"^    .*\s({DOTTED})$", text, re.M)
    return sorted({*ticked, *at_end})


def exists(name: str) -> bool:
    if name in flatten(MMSSLConfig()):
        return True
    module, _, attribute = name.rpartition(".")
    if module.split(".")[0] not in PARTS:
        return False
    try:
        return hasattr(importlib.import_module(f"mmssl_jax.{module}"), attribute)
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("name", names_in(TEXT))
def test_a_named_function_or_setting_exists(name):
    assert exists(name), f"docs/method.md names {name}, which is neither a function nor a setting"


def test_names_are_found_and_told_apart():
    text = "`losses.bpr.bpr_loss` `loss.temperature`\n    y = x     graph.propagate.propagate\n"
    assert names_in(text) == [
        "graph.propagate.propagate", "loss.temperature", "losses.bpr.bpr_loss",
    ]  # fmt: skip
    assert not exists("losses.bpr.bpr")
    assert not exists("losses.none.bpr_loss")
    assert not exists("loss.temprature")


OF_MMSSL = ("losses", "game/adversarial", "game/edge_likelihood", "fusion", "encoders")


@pytest.mark.parametrize("stage", ["losses", *(f"methods/mmssl/{name}.py" for name in OF_MMSSL)])
def test_every_public_function_of_the_losses_is_named(stage):
    place = PACKAGE / stage
    named = set(names_in(TEXT))
    of_mmssl = "\n".join(p.read_text() for p in (PACKAGE / "methods" / "mmssl").rglob("*.py"))
    for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                if node.name == "score_rows":  # a call of the critic, no equation
                    continue
                if stage == "losses" and node.name not in of_mmssl:  # another method's
                    continue
                assert f"{module}.{node.name}" in named


def test_the_files_it_refers_to_exist():
    files = re.findall(r"`(docs/[a-z_]+\.md)`", TEXT)
    assert files
    assert all((PACKAGE.parent / Path(file)).is_file() for file in files)
    ledger = (PACKAGE.parent / "docs" / "parity.md").read_text()
    rows = {int(row) for row in re.findall(r"^\| (\d+) \|", ledger, re.M)}
    cited = {
        int(n)
        for group in re.findall(r"(?<!\^)\(((?:\d+)(?:, \d+)*)\)", TEXT)
        for n in group.split(",")
    }
    assert {2, 5, 11, 25} <= cited <= rows
