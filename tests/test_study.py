import csv
import json

import numpy as np
import pytest

from mmssl_jax.cli.study import study_command
from mmssl_jax.config import ConfigError, flatten, override
from mmssl_jax.method import BASE, Variant
from mmssl_jax.methods.mmssl.ablations import NOT_STUDIED, ablations
from mmssl_jax.methods.mmssl.presets import DEPARTURES
from mmssl_jax.records.log import write_json
from mmssl_jax.run_config import dump_config
from mmssl_jax.study import run as study_run
from mmssl_jax.study.paired import paired_over_users, paired_p_value
from mmssl_jax.study.run import run_study
from mmssl_jax.study.table import csv_text, markdown_text, summarize, table_rows
from mmssl_jax.study.variants import configure, study_variants
from mmssl_jax.training.errors import RunError
from tests.problems import CHANGES, flags, tiny_config, tiny_dataset, write_folder


@pytest.fixture
def base(tmp_path):
    folder = write_folder(tiny_dataset(), tmp_path / "data")
    return override(tiny_config(), {"data.format": "auto", "data.path": str(folder)})


@pytest.fixture
def fake_fit(monkeypatch):
    """Replaces training by figures made of the settings; yields what was run."""
    ran = []

    def fit(config, run, resume, quiet):
        assert quiet
        ran.append((run.parent.name, config.train.seed, resume))
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text(dump_config(config))
        recall = 0.1 + 0.01 * config.train.seed + (0.05 if config.loss.contrastive else 0.0)
        metrics = {"recall@20": recall, "ndcg@20": recall / 2}
        write_json(run / "result.json", {"best_epoch": 3, "validation": metrics, "test": metrics})

    monkeypatch.setattr(study_run, "fit", fit)
    return ran


def test_ablations_leave_out_what_their_names_say(base):
    changes = {variant.name: variant.changes for variant in ablations(base, ("audio", "image"))}
    assert changes["w-o-ASL"] == {"game.weight": 0.0}
    assert changes["w-o-CL"] == {"loss.contrastive": 0.0}
    assert changes["w-o-GT"] == {"game.real_rows": "observed"}
    assert changes["r-p-GAE"] == {"game.kind": "edge_likelihood"}
    assert changes["w-o-audio"] == {"data.modalities": ("image",)}
    assert changes["w-o-image"] == {"data.modalities": ("audio",)}
    assert not [v for v in ablations(base, ("audio",)) if "modality" in v.what]


def test_departures_switch_one_thing_at_a_time(base):
    variants = {v.name: v for v in study_variants("departures", base, ("audio", "image"))}
    switched = [d for d in DEPARTURES if d.key not in NOT_STUDIED]
    assert len(variants) == len(switched) + 2
    for departure in switched:
        found = [
            v for v in variants.values() if departure.key in v.changes and v.name != "released"
        ]
        assert any(v.changes[departure.key] == departure.released for v in found)
    for variant in variants.values():
        study_run.validate(configure(base, variant, 1))
    everything = flatten(configure(base, variants["released"], 1))
    assert all(everything[d.key] == d.released for d in switched)
    with pytest.raises(ConfigError, match=r"paper preset, but model\.last_layer_softmax"):
        study_variants("departures", override(base, {"model.last_layer_softmax": True}), ("a",))


def test_a_study_runs_what_is_missing_and_keeps_what_is_there(base, tmp_path, fake_fit):
    out = tmp_path / "study"
    run_study("ablations", base, out, (1, 2), ("base", "w-o-CL"))
    assert sorted(fake_fit) == [
        (name, seed, False) for name in ("base", "w-o-CL") for seed in (1, 2)
    ]
    (out / "w-o-CL" / "seed-2" / "result.json").unlink()
    rows = run_study("ablations", base, out, (1, 2), ("base", "w-o-CL"))
    assert fake_fit[4:] == [("w-o-CL", 2, True)]

    assert [row["variant"] for row in rows] == ["base", "w-o-CL"]
    assert rows[0]["recall@20"] == pytest.approx(0.165)
    assert rows[1]["recall@20 difference"] == pytest.approx(-0.05)
    with (out / "table.csv").open() as file:
        read = list(csv.DictReader(file))
    assert float(read[1]["recall@20"]) == pytest.approx(0.115)
    assert "| w-o-CL |" in (out / "table.md").read_text()

    with pytest.raises(RunError, match=r"optim\.lr: 0\.01 in the run, 0\.5 now"):
        run_study("ablations", override(base, {"optim.lr": 0.5}), out, (1,), ("base",))
    with pytest.raises(RunError, match=r"train\.max_steps: 0 in the run, 5 now"):
        run_study("ablations", override(base, {"train.max_steps": 5}), out, (1,), ("base",))
    moved = write_folder(tiny_dataset(seed=1), tmp_path / "other")
    with pytest.raises(RunError, match="holds a study of another dataset"):
        run_study("ablations", override(base, {"data.path": str(moved)}), out, (1,), ("base",))
    with pytest.raises(RunError, match=r"no variant 'w-o-XY'.*w-o-ASL"):
        run_study("ablations", base, out, (1,), ("w-o-XY",))


def results(**values):
    return {
        name: {
            seed: {"test": {"recall@20": v, "ndcg@20": v}, "best_epoch": 1}
            for seed, v in enumerate(entries)
        }
        for name, entries in values.items()
    }


def test_summaries_are_the_textbook_ones():
    base, other = np.array([0.1, 0.2, 0.3]), np.array([0.15, 0.22, 0.38])
    summary = summarize(results(base=base, other=other), "other", "recall@20")
    gaps = other - base
    t = gaps.mean() / (gaps.std(ddof=1) / np.sqrt(3))
    # With two degrees of freedom the tail of Student's t is in closed form.
    p = 1 - t / np.sqrt(t**2 + 2)
    assert summary.mean == pytest.approx(0.25)
    assert summary.deviation == pytest.approx(other.std(ddof=1))
    assert summary.difference == pytest.approx(gaps.mean())
    assert summary.p_value == pytest.approx(p)
    alone = summarize(results(base=base), BASE, "recall@20")
    assert np.isnan(alone.difference)
    assert np.isnan(alone.p_value)


def test_p_values_at_the_edges():
    assert np.isnan(paired_p_value(np.array([0.1])))
    assert paired_p_value(np.array([0.0, 0.0])) == 1.0
    assert paired_p_value(np.array([0.1, 0.1])) == 0.0


def test_one_seed_has_neither_deviation_nor_test():
    variants = [Variant(BASE, "all", {}), Variant("x", "less", {}), Variant("none", "-", {})]
    rows = table_rows(variants, results(base=[0.1], x=[0.2]), {})
    assert [row["variant"] for row in rows] == [BASE, "x"]
    assert "±" not in markdown_text(rows)
    assert ",," in csv_text(rows)


def by_user(users, recalls):
    return {"users": np.array(users, np.int32), "recall@20": np.array(recalls, np.float32)}


def test_users_are_paired_by_their_means_over_the_seeds_that_both_have():
    own = {1: by_user([0, 2, 5], [1, 0, 1]), 2: by_user([0, 2, 5], [0, 0.5, 1])}
    base = {
        1: by_user([0, 1, 2, 5], [0, 1, 0, 0.5]),
        2: by_user([0, 2, 5], [0, 0, 1]),
        3: by_user([0, 2, 5], [9, 9, 9]),
    }
    found = paired_over_users(own, base, "recall@20")
    gaps = np.array([0.5, 0.25, 0.25])
    t = gaps.mean() / (gaps.std(ddof=1) / np.sqrt(3))
    assert found.pairs == 3
    assert found.difference == pytest.approx(gaps.mean())
    assert found.p_value == pytest.approx(1 - t / np.sqrt(t**2 + 2))
    apart = paired_over_users({1: own[1]}, {2: base[2]}, "recall@20")
    assert np.isnan(apart.difference)
    assert apart.pairs == 0


def test_the_table_has_both_tests():
    variants, names = [Variant(BASE, "all", {}), Variant("x", "less", {})], ("recall@20", "ndcg@20")
    users = np.arange(9, dtype=np.int32)
    values = {BASE: np.zeros(9), "x": np.r_[np.zeros(4), np.ones(5)]}
    of_users = {v: {0: {"users": users, **dict.fromkeys(names, x)}} for v, x in values.items()}
    rows = table_rows(variants, results(base=[0.1], x=[0.2]), of_users)
    assert np.isnan(rows[0]["recall@20 user p"])
    assert rows[1]["recall@20 user p"] == paired_p_value(values["x"])
    assert np.isnan(rows[1]["recall@20 p"])
    assert "| +0.1000 |  | 0.013 |" in markdown_text(rows)


@pytest.mark.slow
def test_the_command_trains_and_writes_the_table(base, tmp_path, capsys):
    data = {"data.path": base.data.path, "data.format": "auto"}
    given = {**CHANGES, **data, "train.epochs": 1}
    study_flags = ["--study", "ablations", "--seeds", "[1]", "--only", "['base', 'w-o-ASL']"]
    study_command([*flags(given), *study_flags, "--out", str(tmp_path / "s")])
    result = json.loads((tmp_path / "s" / "w-o-ASL" / "seed-1" / "result.json").read_text())
    shown = capsys.readouterr().out
    assert f"{result['test']['recall@20']:.4f}" in shown
