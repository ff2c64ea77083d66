"""Features in place of an item's own, and the study that trains with them."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.cli.study import study_command
from mmssl_jax.config import ConfigError, DataConfig, override
from mmssl_jax.data.controls import CONTROLS, Draw, replace_features
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.data.load import load_dataset, with_controls
from mmssl_jax.method import BASE, uses_features
from mmssl_jax.methods import METHODS
from mmssl_jax.ranking.per_user import read_per_user
from mmssl_jax.run_config import read_config, validate
from mmssl_jax.study.run import finish_evaluation, run_study
from mmssl_jax.study.variants import configure, study_texts, study_variants
from mmssl_jax.training.errors import RunError
from mmssl_jax.training.loop import fit
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_embedding, compile_training
from mmssl_jax.training.restore import evaluate_run
from tests.problems import CHANGES, flags, partial_dataset, tiny_config, tiny_dataset, write_folder
from tests.test_methods import config_of

USING = [name for name, kind in METHODS.items() if uses_features(kind)]


def changed(control, dataset=None, modalities=(), seed=0, share=0.1):
    dataset = tiny_dataset() if dataset is None else dataset
    return replace_features(dataset, control, modalities, Draw(seed, share))


def sources(before, after, modality):
    """For each item, the one whose row it has; -1 where nobody's."""
    rows, others = before.features[modality], after.features[modality]
    equal = (others[:, None] == rows[None]).all(axis=2)
    return np.where(equal.any(axis=1), equal.argmax(axis=1), -1)


# What each control does --------------------------------------------------------------------------


def test_the_features_as_they_are_change_nothing():
    dataset = tiny_dataset()
    assert changed("real", dataset) is dataset


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_keeps_everything_but_the_features_of_its_modalities(control):
    before = partial_dataset()
    after = changed(control, before, ("visual",))
    for split, edges in before.splits.items():
        np.testing.assert_array_equal(after.splits[split], edges)
    np.testing.assert_array_equal(after.features["acoustic"], before.features["acoustic"])
    np.testing.assert_array_equal(after.presence["acoustic"], before.presence["acoustic"])
    assert after.features["visual"].shape == before.features["visual"].shape
    assert after.features["visual"].dtype == np.float32
    assert not np.array_equal(after.features["visual"], before.features["visual"])
    assert after.presence["visual"].sum() == pytest.approx(before.presence["visual"].sum(), abs=4)
    again, other = (changed(control, before, ("visual",), seed) for seed in (0, 1))
    assert again.fingerprint() == after.fingerprint()
    assert other.fingerprint() != after.fingerprint()


def test_noise_has_the_mean_and_deviation_of_its_columns_and_stays_with_its_items():
    scales = np.array([0.0, 0.1, 1.0, 10.0, 3.0, 5.0], np.float32)
    plain = partial_dataset()
    rng = np.random.default_rng(0)
    rows = (scales * rng.normal(size=(5000, 6)) + 7).astype(np.float32)
    present = rng.random(5000) < 0.7
    rows[~present] = 1e6
    before = dataclasses.replace(
        plain, item_ids=np.arange(5000), features={"x": rows}, presence={"x": present}
    )
    after = changed("noise", before)
    np.testing.assert_array_equal(after.presence["x"], present)
    found, known = after.features["x"][present], rows[present]
    np.testing.assert_allclose(found.mean(axis=0), known.mean(axis=0), atol=0.5)
    np.testing.assert_allclose(found.std(axis=0), known.std(axis=0), rtol=0.05, atol=1e-4)
    assert not after.features["x"][~present].any()
    assert abs(np.corrcoef(found[:, 3], known[:, 3])[0, 1]) < 0.06


def test_noise_of_two_modalities_is_not_the_same():
    rows = tiny_dataset().features["visual"]
    twice = dataclasses.replace(tiny_dataset(), features={"a": rows, "b": rows})
    after = changed("noise", twice).features
    assert not np.allclose(after["a"], after["b"])


def test_shuffling_moves_rows_and_presence_together():
    before = partial_dataset()
    alike, apart = changed("shuffled", before), changed("shuffled_each", before)
    everyone = np.arange(before.n_items)
    for after, is_alike in ((alike, True), (apart, False)):
        orders = []
        for modality in before.modalities:
            had = before.presence[modality]
            source = sources(before, after, modality)
            has = after.presence[modality]
            assert set(source[has]) == set(everyone[had])  # a permutation of who has it
            orders.append(np.where(has, source, -1))
        both = (orders[0] >= 0) & (orders[1] >= 0)
        assert both.any()
        assert np.array_equal(orders[0][both], orders[1][both]) == is_alike
    whole = tiny_dataset()
    assert sorted(sources(whole, changed("shuffled", whole), "visual")) == [*everyone]


def test_a_constant_is_the_row_of_an_item_that_has_one():
    before = partial_dataset()
    features = {m: rows.copy() for m, rows in before.features.items()}
    features["visual"][:30] = 0.0
    before = dataclasses.replace(before, features=features)
    after = changed("constant", before)
    for modality in before.modalities:
        rows = after.features[modality]
        assert (rows == rows[:1]).all()
        assert rows.any()
        (source,) = set(sources(before, after, modality))
        assert before.presence[modality][source]
        np.testing.assert_array_equal(after.presence[modality], before.presence[modality])
    nothing = {m: np.zeros_like(rows) for m, rows in features.items()}
    assert (
        not changed("constant", dataclasses.replace(before, features=nothing))
        .features["visual"]
        .any()
    )


def test_the_misplaced_are_the_same_in_all_modalities_and_more_in_a_larger_share():
    before = tiny_dataset()
    everyone, smaller = np.arange(before.n_items), None
    for share, number in ((0.001, 1), (0.05, 2), (0.1, 4), (0.5, 20)):
        after = changed("misplaced", before, share=share)
        source = sources(before, after, "visual")
        np.testing.assert_array_equal(source, sources(before, after, "acoustic"))
        moved = set(np.flatnonzero(source != everyone).tolist())
        assert len(moved) == number
        if smaller is not None:
            assert smaller <= moved
        smaller = moved
    masked = partial_dataset()
    after = changed("misplaced", masked, share=0.5)
    rows = np.where(masked.presence["visual"][:, None], masked.features["visual"], np.nan)
    found = np.where(after.presence["visual"][:, None], after.features["visual"], np.nan)
    for item, row in enumerate(found):  # a row comes with whether there is one
        assert any(np.array_equal(row, other, equal_nan=True) for other in rows), item


def test_what_cannot_be_replaced_is_refused():
    with pytest.raises(DatasetError, match=r"data\.replaced names \['text'\].*acoustic"):
        changed("noise", modalities=("text", "visual"))
    bare = dataclasses.replace(tiny_dataset(), features={})
    with pytest.raises(DatasetError, match=r"no features.*data\.features.*noise"):
        changed("noise", bare)
    for changes, message in (
        (
            {"data.replaced": ("visual",)},
            r"data\.replaced names visual, but data\.features is real",
        ),
        ({"data.features": "misplaced", "data.misplaced": 0.0}, "changes nothing"),
        ({"data.features": "none"}, "none"),
    ):
        with pytest.raises(ConfigError, match=message):
            validate(override(tiny_config(), changes))


# Runs --------------------------------------------------------------------------------------------


def test_a_run_has_the_configured_features_whether_or_not_it_is_given_the_dataset():
    config = tiny_config("paper", {"data.features": "shuffled", "data.seed": 3})
    underlying = load_dataset(config.data)
    read, given = load_problem(config), load_problem(config, underlying)
    expected = with_controls(underlying, config.data)
    assert read.dataset.fingerprint() == given.dataset.fingerprint() == expected.fingerprint()
    assert underlying.fingerprint() != expected.fingerprint()


def test_a_run_with_noise_is_evaluated_and_resumed_from_its_own_settings(tmp_path):
    folder = write_folder(tiny_dataset(), tmp_path / "data")
    changes = {"data.format": "auto", "data.path": str(folder), "data.features": "noise"}
    config = config_of("lightgcn", **changes, **{"train.epochs": 1})
    result = fit(config, tmp_path / "run", quiet=True)
    assert evaluate_run(str(tmp_path / "run"), devices=1) == pytest.approx(result["test"])
    fit(config, tmp_path / "run", resume=True, quiet=True)  # it is over
    with pytest.raises(RunError, match=r"data\.features: noise in the run, real now"):
        fit(override(config, {"data.features": "real"}), tmp_path / "run", resume=True, quiet=True)


@pytest.mark.parametrize(
    "name",
    [n if n in ("crossview", "vbpr") else pytest.param(n, marks=pytest.mark.slow) for n in USING],
)
def test_constant_features_are_no_trouble(name):
    problem = load_problem(config_of(name, **{"data.features": "constant"}), tiny_dataset())
    state, run = new_state(problem), compile_training(problem).steps
    for _ in range(2):
        state, metrics = run(state, 1)
        assert all(np.isfinite(float(value)) for value in metrics.values()), metrics
    leaves = [leaf for leaf in jax.tree.leaves(state.method) if jnp.issubdtype(leaf.dtype, float)]
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves)
    for part in compile_embedding(problem)(state):
        assert bool(jnp.all(jnp.isfinite(part)))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_whether_it_uses_features(name):
    """Features are constant inputs, so a method that uses them has other inputs with others."""
    plain = tiny_dataset()
    method = METHODS[name].build(config_of(name), plain)
    one, other = (jax.tree.leaves(method.inputs(d)) for d in (plain, changed("shuffled", plain)))
    same = all(np.array_equal(x, y) for x, y in zip(one, other, strict=True))
    assert same != uses_features(METHODS[name])


# The study ---------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path):
    folder = write_folder(tiny_dataset(), tmp_path / "data")
    return override(tiny_config(), {"data.format": "auto", "data.path": str(folder)})


def test_the_study_has_every_control(base):
    variants = {v.name: v for v in study_variants("modalities", base, ("audio", "image"))}
    assert list(variants) == [
        "base", "noise", "shuffled", "shuffled-each", "constant", "noise-audio", "noise-image",
        "only-audio", "only-image", "misplaced-05", "misplaced-10", "misplaced-20",
        "random-neighbours", "shuffled-later",
    ]  # fmt: skip
    changes = {name: variant.changes for name, variant in variants.items()}
    assert changes["base"] == {}
    assert changes["noise-audio"] == {"data.features": "noise", "data.replaced": ("audio",)}
    assert changes["only-image"] == {"data.modalities": ("image",)}
    assert changes["misplaced-05"] == {"data.features": "misplaced", "data.misplaced": 0.05}
    assert changes["random-neighbours"] == {"data.neighbours": "random"}
    for variant in variants.values():
        validate(configure(base, variant, 1))
        assert (variant.state_of == BASE) == (variant.name == "shuffled-later")
    alone = [v.name for v in study_variants("modalities", base, ("image",))]
    assert not [n for n in alone if n.startswith(("noise-", "only-", "shuffled-each"))]


def test_what_cannot_be_studied_is_refused(base):
    for changes, message in (
        ({"data.features": "noise"}, r"data\.features is noise, but this study compares with real"),
        ({"data.neighbours": "random"}, r"data\.neighbours is random"),
    ):
        with pytest.raises(ConfigError, match=message):
            study_variants("modalities", override(base, changes), ("audio", "image"))
    with pytest.raises(ConfigError, match="the dataset has no features"):
        study_variants("modalities", base, ())
    for name in set(METHODS) - set(USING):
        assert "modalities" in study_texts(name)
        with pytest.raises(ConfigError, match=f"{METHODS[name].TITLE} uses no features"):
            study_variants("modalities", METHODS[name].CONFIG(), ("audio", "image"))


@pytest.mark.slow
def test_the_study_from_the_command_to_the_table(base, tmp_path, capsys):
    data = {"data.path": base.data.path, "data.format": "auto"}
    given = flags({**CHANGES, **data, "train.epochs": 1, "game.weight": 0.0})
    only, out = ("noise", "shuffled-later"), tmp_path / "study"
    asked = ["--study=modalities", "--seeds=[1]", f"--only={list(only)}", f"--out={out}"]
    study_command([*given, *asked])
    shown = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in shown.splitlines() if line.startswith("| ")] == [
        "| variant", "| ---", "| base", "| noise", "| shuffled-later",
    ]  # fmt: skip
    runs = {name: out / name / "seed-1" for name in (BASE, *only)}
    results = {n: json.loads((run / "result.json").read_text()) for n, run in runs.items()}
    # Later features change what the base's state ranks, and nothing was trained for it.
    later, found = runs["shuffled-later"], results["shuffled-later"]
    assert not (later / "checkpoints").exists()
    assert found["best_step"] == results[BASE]["best_step"]
    assert found["test"] != results[BASE]["test"]
    assert found["state_of"] == "../../base/seed-1"
    assert read_config(later / "config.yaml").data.features == "shuffled"
    assert read_per_user(later)["recall@20"].mean() == pytest.approx(found["test"]["recall@20"])
    # What is there is kept, and what is missing done.
    shutil.rmtree(later)
    stamp = (runs["noise"] / "result.json").stat().st_mtime_ns
    used = read_config(runs[BASE] / "config.yaml")
    run_study("modalities", used, out, (1,), only)
    assert json.loads((later / "result.json").read_text()) == found
    assert (runs["noise"] / "result.json").stat().st_mtime_ns == stamp
    # Other settings and other data are refused, whatever stands in for the features.
    with pytest.raises(RunError, match="holds a run of other settings"):
        finish_evaluation(used, runs[BASE], later)
    moved = write_folder(tiny_dataset(seed=1), tmp_path / "other")
    with pytest.raises(RunError, match="holds a study of another dataset"):
        run_study("modalities", override(used, {"data.path": str(moved)}), out, (1,))


def test_the_settings_have_their_defaults():
    assert DataConfig().features == "real"
    assert DataConfig().replaced == ()
