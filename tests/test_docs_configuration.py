"""docs/configuration.md is what the settings say now."""

import importlib.util
import re
from pathlib import Path

import pytest

from mmssl_jax.config import Config, flatten
from mmssl_jax.methods.mmssl.presets import DEPARTURES

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make", DOCS / "make_configuration.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(maker):
    assert (DOCS / "configuration.md").read_text() == maker.page(), (
        "settings have changed: run python docs/make_configuration.py"
    )


def test_the_ledger_has_both_values_of_every_departure(maker):
    ledger = (DOCS / "parity.md").read_text()
    for departure in DEPARTURES:
        values = " | ".join(maker.value_text(v) for v in (departure.paper, departure.released))
        assert f"| {departure.row} | `{departure.key}` | {values} |" in ledger
        (row,) = [
            x
            for x in ledger.splitlines()
            if x.startswith(f"| {departure.row} | ") and x.count("|") == 6
        ]
        assert f"`{departure.key}`" in row


def test_the_page_has_every_setting_and_departure():
    rows = {
        cells[1].strip("` "): [cell.strip() for cell in cells[2:-1]]
        for line in (DOCS / "configuration.md").read_text().splitlines()
        if line.startswith("| `")
        for cells in [re.split(r"(?<!\\)\|", line)]
    }
    assert list(rows) == list(flatten(Config()))
    assert {key for key, row in rows.items() if row[2]} == {d.key for d in DEPARTURES}
    assert rows["optim.lr"] == [
        "float > 0", "`0.00055`", "", "Learning rate of the generator.",
    ]  # fmt: skip
    assert rows["critic.slope"][1:3] == ["`0.2`", "`1.0`"]
    assert rows["critic.hidden"][:3] == ["list of float > 0", "`[512, 256]`", "`[0.25, 0.125]`"]
    assert rows["structure.k_rate"][:3] == ["float >= 0 or null", "`null`", "`0.0001`"]
    assert rows["train.shared_forward"][:3] == ["true or false", "`true`", "`false`"]
    assert rows["model.heads"][3]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ("Literal['a', 'b']", "`a`, `b`"),
        ("tuple[PositiveInt, ...]", "list of int > 0"),
        ("tuple[Fraction, Fraction]", "list: float in [0, 1), float in [0, 1)"),
        ("NonNegativeFloat | None", "float >= 0 or null"),
    ],
)
def test_types_in_words(maker, annotation, words):
    assert maker.type_words(annotation) == words
