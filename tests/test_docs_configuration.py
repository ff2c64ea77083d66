"""docs/configuration.md is what the settings say now."""

import importlib.util
import re
from pathlib import Path

import pytest

from mmssl_jax.config import Config, flatten
from mmssl_jax.methods import METHODS
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


def tables() -> list[tuple[str, dict[str, list[str]]]]:
    """The parts of the page by heading, each with its rows {setting: other cells}."""
    found = []
    for part in (DOCS / "configuration.md").read_text().split("\n## ")[1:]:
        lines = [line for line in part.splitlines() if line.startswith("| `")]
        cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        rows = {first.strip("`"): others for first, *others in cells}
        assert len(rows) == len(lines), "a setting twice in one part"
        found.append((part.splitlines()[0], rows))
    return found


def test_the_page_has_every_setting_of_every_method():
    (heading, shared), *own = tables()
    assert heading == "The settings of every method"
    assert list(shared) == list(flatten(Config()))
    assert [heading for heading, _ in own] == [
        f"{method.TITLE}: `--method {name}`" for name, method in METHODS.items()
    ]
    for (_, rows), method in zip(own, METHODS.values(), strict=True):
        base, config = flatten(Config()), flatten(method.CONFIG())
        changed = {key for key in config if key not in base or config[key] != base[key]}
        assert changed - {"method"} <= set(rows)
        assert set(shared) | set(rows) == set(config)
        for key in rows.keys() & shared.keys():  # a row that said nothing new would not be there
            assert rows[key] != shared[key]


def test_the_page_has_the_departures_and_the_right_cells(maker):
    parts = dict(tables())
    shared = parts["The settings of every method"]
    mmssl, lightgcn = parts["MMSSL: `--method mmssl`"], parts["LightGCN: `--method lightgcn`"]
    assert {key for key, row in mmssl.items() if row[2]} == {d.key for d in DEPARTURES}
    for departure in DEPARTURES:
        values = [maker.value_text(v) for v in (departure.paper, departure.released)]
        assert mmssl[departure.key][1:3] == values
    assert mmssl["optim.lr"] == [
        "float > 0", "`0.00055`", "", "Learning rate of the generator.",
    ]  # fmt: skip
    assert mmssl["critic.slope"][1:3] == ["`0.2`", "`1.0`"]
    assert mmssl["critic.hidden"][:3] == ["list of float > 0", "`[512, 256]`", "`[0.25, 0.125]`"]
    assert mmssl["structure.k_rate"][:3] == ["float >= 0 or null", "`null`", "`0.0001`"]
    assert mmssl["train.shared_forward"][:3] == ["true or false", "`true`", "`false`"]
    assert mmssl["model.heads"][3]
    assert shared["optim.lr"] == ["float > 0", "`0.001`", "Learning rate."]
    assert shared["method"][1] == "`mmssl`"
    assert lightgcn["train.patience"] == [
        "int > 0", "`20`",
        "Training stops when this many epochs in a row plus one bring no better `monitor`.",
    ]  # fmt: skip
    assert lightgcn["sampling.by"][1] == "`interaction`"
    assert all(len(row) == 3 for row in (*shared.values(), *lightgcn.values()))


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
