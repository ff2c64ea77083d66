"""Settings in Python: presets, overrides, and the checks across settings."""

import dataclasses

import pytest

from mmssl_jax.config import ConfigError, flatten, override
from mmssl_jax.methods.mmssl.config import MMSSLConfig, preset_config
from mmssl_jax.methods.mmssl.presets import DEPARTURES, PRESETS
from mmssl_jax.training.problem import load_problem
from mmssl_jax.training.programs import compile_training
from tests.problems import tiny_config, tiny_dataset


def test_the_defaults_are_the_paper_preset():
    assert preset_config("paper") == MMSSLConfig()


def test_the_presets_differ_in_the_departures_alone():
    paper, released = flatten(preset_config("paper")), flatten(preset_config("released"))
    differing = {key for key in paper if paper[key] != released[key]}
    assert differing == {"preset", *(departure.key for departure in DEPARTURES)}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_holds_the_values_of_the_ledger(name):
    flat = flatten(preset_config(name))
    for departure in DEPARTURES:
        assert flat[departure.key] == getattr(departure, name), departure.key


def test_a_departure_departs_and_is_listed_once():
    keys = [departure.key for departure in DEPARTURES]
    assert len(keys) == len(set(keys))
    assert all(departure.paper != departure.released for departure in DEPARTURES)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_pass_the_checks_once_there_is_data(name):
    override(preset_config(name), {"data.path": "somewhere"}).check()


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MMSSLConfig().model.dim = 3


def test_flatten_names_every_setting_by_stage():
    flat = flatten(MMSSLConfig())
    assert flat["optim.lr"] == 5.5e-4
    assert flat["preset"] == "paper"
    assert not any(dataclasses.is_dataclass(value) for value in flat.values())


def test_override_changes_what_is_named_and_nothing_else():
    before = MMSSLConfig()
    after = override(before, {"optim.lr": 0.5, "preset": "released", "eval.ks": (3,)})
    changed = {k: v for k, v in flatten(after).items() if flatten(before)[k] != v}
    assert changed == {"optim.lr": 0.5, "preset": "released", "eval.ks": (3,)}
    assert before == MMSSLConfig()


@pytest.mark.parametrize(
    "key", ["lr", "optim.rate", "optimizer.lr", "optim.lr.decay", "preset.x", ""]
)
def test_override_refuses_unknown_keys(key):
    with pytest.raises(ConfigError, match="there is no setting"):
        override(MMSSLConfig(), {key: 1})


@pytest.mark.parametrize("key", ["__class__", "optim.__doc__"])
def test_override_refuses_attributes_that_are_no_settings(key):
    with pytest.raises(ConfigError, match="there is no setting"):
        override(MMSSLConfig(), {key: None})


@pytest.mark.parametrize("key", ["optim", "data"])
def test_override_refuses_a_value_for_a_whole_stage(key):
    with pytest.raises(ConfigError, match="there is no setting"):
        override(MMSSLConfig(), {key: 3})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.format": "auto"}, "--data.path DIR"),
        ({"model.heads": 3}, "model.heads is 3, which does not divide model.dim 8"),
        ({"critic.dropout": (0.1,)}, "1 rates for 2 widths"),
        ({"critic.dropout": (), "critic.hidden": ()}, "one rate per width"),
        ({"structure.source": "batches", "structure.every": 0}, "structure.every >= 1"),
        ({"eval.ks": ()}, "eval.ks is empty"),
        ({"train.monitor": "recall@10"}, r"'recall@10'; with eval.ks \[5, 20\] .*recall@20"),
        ({"train.monitor": "auc@20"}, "one of recall@5"),
    ],
)
def test_settings_that_do_not_fit_together(changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config("paper", changes).check()


def test_too_many_devices():
    with pytest.raises(ConfigError, match=r"parallel.devices is 5, but .* has 4 local cpu"):
        load_problem(tiny_config("paper", {"parallel.devices": 5}), tiny_dataset())


def test_a_batch_that_cannot_be_shared():
    changes = {"parallel.devices": 4, "sampling.batch_size": 30}
    problem = load_problem(tiny_config("paper", changes), tiny_dataset())
    with pytest.raises(ConfigError, match="batch_size 30 cannot be shared by 4 devices"):
        compile_training(problem)
