"""Space files: what is read, and what is refused before the first trial."""

from pathlib import Path

import pytest

from mmssl_jax.cli.tune import tune_command
from mmssl_jax.config import ConfigError, flatten
from mmssl_jax.methods.mmssl.config import MMSSLConfig
from mmssl_jax.run_config import read_config
from mmssl_jax.tune.space import Choices, Range, contains, own_space, read_space

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
METHODS_FILES = sorted(f for f in CONFIGS.glob("*.yaml") if not f.stem.startswith("space"))


def read(folder: Path, text: str):
    path = folder / "space.yaml"
    path.write_text(text + "\n")
    return read_space(path, MMSSLConfig())


def test_ranges_and_choices(tmp_path):
    space = read(
        tmp_path,
        "optim.lr: {low: 1e-5, high: 0.1, log: true}\n"
        "model.gnn_layers: {low: 1, high: 3}\n"
        "structure.k: {low: 10, high: 50, step: 20}\n"
        "loss.temperature: {low: 1, high: 2, step: 0.25}\n"
        "critic.hidden: {choices: [[512, 256], [0.5, 64]]}\n"
        "structure.k_rate: {choices: [null, 1e-3]}\n"
        "model.last_layer_softmax: {choices: [true, false]}",
    )
    assert space == {
        "optim.lr": Range(1e-5, 0.1, True),
        "model.gnn_layers": Range(1, 3, is_whole=True),
        "structure.k": Range(10, 50, False, 20, True),
        "loss.temperature": Range(1.0, 2.0, False, 0.25),
        "critic.hidden": Choices(((512.0, 256.0), (0.5, 64.0))),
        "structure.k_rate": Choices((None, 1e-3)),
        "model.last_layer_softmax": Choices((True, False)),
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("optim.lrr: {low: 1, high: 2}", r"no setting 'optim\.lrr'; the nearest is 'optim\.lr'"),
        ("model: {dim: {low: 1, high: 2}}", r"no setting 'model'; the nearest is 'model\.dim'"),
        ("optim.lr: {low: 0, high: 1}", r"optim\.lr cannot be 0: .*>0"),
        ("model.dropout: {low: 0, high: 1}", r"model\.dropout cannot be 1: .*<1"),
        ("model.dim: {low: 1.5, high: 3}", r"model\.dim cannot be 1\.5"),
        ("structure.similarity: {choices: [dot, cos]}", r"similarity cannot be 'cos'"),
        ("structure.similarity: {low: 1, high: 2}", r"is no number.*choices"),
        ("model.last_layer_softmax: {low: 0, high: 1}", r"is no number"),
        ("optim.lr: {low: x, high: 1}", r"optim\.lr cannot be 'x'"),
        ("optim.lr: {low: 2, high: 1}", r"low is 2 and high 1: low < high"),
        ("optim.lr: {low: 1}", r"optim\.lr has no high"),
        ("structure.k_rate: {low: null, high: 1}", r"low is None"),
        ("optim.lr: {low: 1, high: 2, lg: true}", r"has 'lg'; expected only low, high, log, step"),
        ("optim.lr: {low: 1, high: 2, log: 1}", r"log is 1, expected true or false"),
        ("game.weight: {low: 0, high: 2, log: true}", r"log needs low above 0"),
        ("optim.lr: {low: 1, high: 2, log: true, step: 1}", r"log and step exclude each other"),
        ("optim.lr: {low: 1, high: 2, step: -1}", r"step is -1, expected a number above 0"),
        ("model.dim: {low: 8, high: 9, step: 0.5}", r"step is 0\.5, expected a whole number"),
        ("model.dim: {low: 8, high: 64, step: 15}", r"steps of 15 do not lead from low 8"),
        ("optim.lr: [1, 2]", r"optim\.lr is \[1, 2\]: expected"),
        ("optim.lr: {choices: 3}", r"choices is 3, expected a list"),
        ("optim.lr: {choices: [1, 1.0]}", r"names a value twice"),
        ("eval.ks: {choices: [[20]]}", r"eval\.ks cannot be searched over"),
        ("method: {choices: [mmssl, lightgcn]}", r"method cannot be searched over"),
        ("train.seed: {low: 1, high: 9}", r"train\.seed cannot be searched over"),
        ("data.cold_items: {low: 0, high: 0.2}", r"data\.cold_items cannot be searched over"),
        ("{}", r"holds no settings"),
        ("optim.lr: {low: [", r"not YAML: line"),
    ],
)
def test_what_is_refused(tmp_path, line, message):
    with pytest.raises(ConfigError, match=f"(?s)space.yaml.*{message}|{message}") as refusal:
        read(tmp_path, line)
    assert "space.yaml" in str(refusal.value)


def test_the_shipped_space_is_valid():
    space = read_space(CONFIGS / "space_tiktok.yaml", MMSSLConfig())
    assert space["optim.lr"] == Range(1e-5, 1e-3, True)


@pytest.mark.parametrize("path", METHODS_FILES, ids=lambda path: path.stem)
def test_every_methods_space_holds_its_own_settings(path):
    base = read_config(path)
    values = flatten(base)
    space = own_space(base)
    assert space, "it declares none"
    assert [key for key, entry in space.items() if not contains(entry, values[key])] == []


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        (Range(0.3, 0.9, step=0.1), (0.3, 0.6, 0.9), (0.35, 0.2, 1.0, None)),
        (Range(1, 3, is_whole=True), (1, 3), (0, 4)),
        (Choices((False, True)), (True,), ("true",)),
    ],
)
def test_what_a_space_holds(entry, inside, outside):
    assert all(contains(entry, value) for value in inside)
    assert not any(contains(entry, value) for value in outside)


def test_the_command_refuses_a_space_before_anything_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mmssl_jax.cli.tune.own_space", lambda base: {})  # a method without one
    space = tmp_path / "space.yaml"
    space.write_text("optim.lr: {low: 0, high: 1}\n")
    given = ["--data.format=synthetic", "--out", str(tmp_path / "out")]
    for arguments, message in (
        ([], "--space FILE is missing"),
        (["--space", str(tmp_path / "none.yaml")], "there is no space file"),
        (["--space", str(space)], "optim.lr cannot be 0"),
    ):
        with pytest.raises(SystemExit) as leaving:
            tune_command([*given, *arguments])
        assert leaving.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
