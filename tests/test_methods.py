"""Every method keeps the contract: it learns the same on any number of devices, goes on where it
stopped, and what it ranks by can be exported, saved and loaded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import override
from mmssl_jax.method import Method, Vectors
from mmssl_jax.methods import METHODS
from mmssl_jax.recommend import Recommender
from mmssl_jax.recommend.contents import contents_of
from mmssl_jax.training.loop import fit
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_embedding, compile_training
from tests.problems import CHANGES, share_programs, tiny_dataset

# What tiny runs need of each method; settings that it does not have are left out.
DROPOUT_OFF = {"critic.dropout": (0.0, 0.0), "model.dropout": 0.0}
# Their states are those of LightGCN, parameters and moments, so that runs of them which are spread
# over devices or interrupted are left to the slow tests.
AS_LIGHTGCN = ("vbpr", "simgcl", "bm3", "mgcn", "mmhcl")
FEWER = [pytest.param(n, marks=pytest.mark.slow) if n in AS_LIGHTGCN else n for n in METHODS]
# tests/test_parallel.py spreads MMSSL, both presets.
SPREAD = [pytest.param("mmssl", marks=pytest.mark.slow) if n == "mmssl" else n for n in FEWER]


def config_of(name, **changes):
    """The method's own defaults at tiny sizes."""
    default = METHODS[name].CONFIG()
    known = {field.name for field in dataclasses.fields(default)}
    sizes = {k: v for k, v in {**CHANGES, **DROPOUT_OFF}.items() if k.split(".")[0] in known}
    return override(default, {**sizes, **changes})


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


def test_a_method_names_its_settings_and_itself(name):
    kind = METHODS[name]
    assert Method in kind.__mro__  # whose other parts are its defaults
    assert kind.CONFIG().method == name
    assert kind.TITLE
    assert kind.INDUCTIVE is None or kind.INDUCTIVE.kind._fields


def losses_of(name, devices, transform="pmap"):
    changes = {"parallel.devices": devices, "parallel.transform": transform}
    changes["parallel.tables"] = "replicated"
    problem = load_problem(config_of(name, **changes), tiny_dataset())
    state, run, losses = new_state(problem), compile_training(problem).steps, []
    for _ in range(3):
        state, metrics = run(state, 1)
        losses.append({key: float(value) for key, value in metrics.items()})
    return losses, compile_embedding(problem)(state)


@pytest.mark.parametrize("name", SPREAD)
@pytest.mark.parametrize(
    ("devices", "transform"), [(2, "pmap"), pytest.param(4, "shard_map", marks=pytest.mark.slow)]
)
def test_losses_do_not_depend_on_the_devices(name, devices, transform):
    alone, scorer = losses_of(name, 1)
    losses, together = losses_of(name, devices, transform)
    for one, other in zip(alone, losses, strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-6)
    for one, other in zip(*map(jax.tree.leaves, (scorer, together)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


# tests/test_resume.py interrupts MMSSL.
@pytest.mark.parametrize("name", SPREAD)
def test_an_interrupted_run_goes_on_bit_for_bit(name, tmp_path, monkeypatch):
    share_programs(monkeypatch)  # the three runs differ in their length alone
    config = config_of(name, **{"train.epochs": 2})
    short = override(config, {"train.epochs": 1})
    whole = fit(config, tmp_path / "whole", dataset=tiny_dataset(), quiet=True)
    fit(short, tmp_path / "parts", dataset=tiny_dataset(), quiet=True)
    parts = fit(config, tmp_path / "parts", True, tiny_dataset(), quiet=True)
    assert parts == whole


def test_what_ranks_is_finite_and_served_from_a_folder(name, tmp_path):
    problem = load_problem(config_of(name), tiny_dataset())
    recommender = Recommender(contents_of(problem, new_state(problem)))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(recommender.scorer))
    recommender.save(tmp_path / "served")
    served = Recommender.load(tmp_path / "served")
    for filter in ("none", "train", "all"):
        before, after = (r.recommend(r.user_ids, 5, filter) for r in (recommender, served))
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, other)
    if isinstance(served.scorer, Vectors):
        np.testing.assert_array_equal(served.item_vectors, recommender.item_vectors)


def test_a_dataset_without_features_is_enough_unless_they_are_needed(name, tmp_path):
    bare = dataclasses.replace(tiny_dataset(), features={})
    config = config_of(name, **{"train.epochs": 1})
    if METHODS[name].NEEDS_FEATURES:
        with pytest.raises(ValueError, match="no modality"):
            fit(config, tmp_path / "run", dataset=bare, quiet=True)
        return
    result = fit(config, tmp_path / "run", dataset=bare, quiet=True)
    assert result["test"]["users"] == len(np.unique(bare.test[:, 0]))
