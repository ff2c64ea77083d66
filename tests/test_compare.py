"""The comparison of methods: equal budgets, going on after an interruption, tables and the page."""

import csv
import json
import math
import re

import jax
import numpy as np
import pytest

from mmssl_jax.cli.study import study_command
from mmssl_jax.compare.outcome import Finished, Outcome
from mmssl_jax.compare.plan import plan_entries, read_starts
from mmssl_jax.compare.table import (
    Degrees,
    group_labels,
    groups,
    markdown_text,
    recall_by_item_group,
    recall_by_user_group,
    table_rows,
)
from mmssl_jax.config import Config, ConfigError, override
from mmssl_jax.methods import METHODS
from mmssl_jax.methods.mf import MFConfig
from mmssl_jax.ranking.per_user import read_per_user
from mmssl_jax.recommend import Recommender
from mmssl_jax.report import plots
from mmssl_jax.study import run as study_run
from mmssl_jax.training import epochs
from mmssl_jax.tune.space import Range, own_space
from tests.problems import flags, share_programs, tiny_dataset, write_folder

SHARED = override(Config(), {"data.format": "synthetic"})

# Settings and spaces ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_the_space_of_a_method_is_small_and_valid(name):
    space = own_space(METHODS[name].CONFIG())
    assert len(space) <= 5


def test_flags_hold_for_all_methods_and_leave_the_spaces():
    given = ("train.epochs", "optim.lr")
    shared = override(SHARED, {"train.epochs": 3, "optim.lr": 0.5, "eval.ks": (20,)})
    start = override(MFConfig(), {"mf.dim": 8, "train.patience": 3, "eval.ks": (5,)})
    entries = {e.name: e for e in plan_entries(("lightgcn", "mf"), shared, given, {"mf": start})}
    assert [*entries] == ["lightgcn", "mf"]  # in the order of METHODS
    for entry in entries.values():
        assert (entry.config.train.epochs, entry.config.optim.lr) == (3, 0.5)
        assert entry.config.eval.ks == (20,)  # what is measured is the same for all
        assert "optim.lr" not in entry.space
    assert entries["lightgcn"].space["lightgcn.layers"] == Range(1, 4, is_whole=True)
    assert (entries["mf"].config.mf.dim, entries["mf"].config.train.patience) == (8, 3)
    assert entries["lightgcn"].config.train.patience == 20  # its default


def test_settings_that_cannot_be_compared_are_refused():
    with pytest.raises(ConfigError, match=r"no method 'lightgnc'; the nearest is 'lightgcn'"):
        plan_entries(("lightgnc",), SHARED, (), {})
    with pytest.raises(ConfigError, match=r"lists of 20: add 20"):
        plan_entries((), override(SHARED, {"eval.ks": (10,)}), (), {})
    with pytest.raises(ConfigError, match=r"mf: train\.monitor is 'recall@7'"):
        plan_entries(("mf",), override(SHARED, {"train.monitor": "recall@7"}), (), {})


def test_starts_are_found_by_the_method_that_a_file_names(tmp_path):
    (tmp_path / "a.yaml").write_text("method: mf\nmf: {dim: 8}\n")
    (tmp_path / "space.yaml").write_text("optim.lr: {low: 1e-4, high: 1}\n")
    assert {name: c.mf.dim for name, c in read_starts([str(tmp_path)]).items()} == {"mf": 8}
    later = tmp_path / "more"
    later.mkdir()
    (later / "b.yaml").write_text("method: mf\nmf: {dim: 4}\n")
    both = read_starts([str(tmp_path), str(later / "b.yaml")])
    assert both["mf"].mf.dim == 4
    (tmp_path / "c.yaml").write_text("method: mf\n")
    with pytest.raises(ConfigError, match=r"a\.yaml and .*c\.yaml are both settings of mf"):
        read_starts([str(tmp_path)])
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        read_starts([str(tmp_path / "none.yaml")])


# Tables -----------------------------------------------------------------------------------------


def fake_run(recall: np.ndarray, ndcg: np.ndarray, found: list[bool], best_epoch: int = 1):
    """A run of three users with four held-out pairs, items 0 to 3."""
    users = np.array([0, 1, 2])
    pairs = np.array([[0, 0], [1, 1], [2, 2], [2, 3]])
    by_user = {"users": users, "recall@20": recall, "ndcg@20": ndcg}
    by_user |= {"held_out": pairs, "found@20": np.array(found)}
    result = {
        "best_epoch": best_epoch,
        "validation": {"recall@20": float(recall.mean()) + 0.1},
        "test": {"recall@20": float(recall.mean()), "ndcg@20": float(ndcg.mean())},
        "baselines": {},
        "parameters": 1234,
    }
    records = [{"epoch": e, "seconds": s} for e, s in enumerate((9.0, 1.0, 2.0))]
    return Finished(result, records, by_user)


def fake_outcome(name: str, runs, tuning=None, diverged=None):
    config = override(METHODS[name].CONFIG(), {"data.format": "synthetic"})
    return Outcome(name, METHODS[name].TITLE, tuning, 0, config, runs, diverged or {})


DEGREES = Degrees(users=np.array([0, 3, 12]), items=np.array([0, 5, 6, 100]))


def test_a_table_is_what_the_runs_say():
    weak = {s: fake_run(np.array([0, 0, r]), np.array([0, 0, 0.1]), [False] * 4) for s, r in
            ((1, 0.3), (2, 0.6))}  # fmt: skip
    found = [True, True, False, True]
    strong = {1: fake_run(np.array([1, 1, 0.5]), np.array([1, 1, 0.4]), found, 2)}
    tuning = {"trials": 3, "pruned": 1, "minutes": 2.0, "chosen": "trial-0001", "value": 0.3,
              "changes": {"optim.lr": 0.25}}  # fmt: skip
    outcomes = [
        fake_outcome("mmssl", {}, diverged={1: "epoch 0"}),
        fake_outcome("lightgcn", weak, tuning, {3: "epoch 4"}),
        fake_outcome("mf", strong),
    ]
    first, second = table_rows(outcomes, DEGREES)
    assert (first["method"], second["method"]) == ("mf", "lightgcn")  # the best comes first
    assert math.isnan(first["recall@20 p"])
    assert second["recall@20"] == pytest.approx(0.15)
    assert second["recall@20 deviation"] == pytest.approx(np.std([0.1, 0.2], ddof=1))
    assert (second["seeds"], second["trials"], second["diverged seeds"]) == (2, 3, 1)
    # Seed 1 is what both have: gaps -1, -1, -0.2, of which Student's t with 2 degrees of freedom.
    gaps = np.array([-1, -1, -0.2])
    t = abs(gaps.mean()) / (gaps.std(ddof=1) / np.sqrt(3))
    assert second["recall@20 difference"] == pytest.approx(gaps.mean())
    assert second["recall@20 p"] == pytest.approx(1 - t / np.sqrt(t**2 + 2))
    assert {name: first[f"recall@20 users {name}"] for name in ("0", "2-3", "11+")} == {
        "0": 1.0, "2-3": 1.0, "11+": 0.5,
    }  # fmt: skip
    assert "recall@20 users 1" not in first  # nobody has one
    assert {name: first[f"recall@20 items {name}"] for name in ("0", "1-5", "6-19", "60+")} == {
        "0": 1.0, "1-5": 1.0, "6-19": 0.0, "60+": 1.0,
    }  # fmt: skip
    assert first["seconds to the best"] == 12.0
    assert second["seconds to the best"] == 10.0
    assert second["seconds per epoch"] == 1.5
    assert (second["epochs to the best"], second["parameters"]) == (2.0, 1234)
    text = markdown_text([first, second])
    assert "| method | 0 (n=1) | 1-5 (n=1) | 6-19 (n=1) | 60+ (n=1) |" in text
    assert "| LightGCN | 3 | 2.0 | 2 (1 diverged) | 0.2500 ± 0.0707 | 0.1500 ± 0.0707 |" in text
    assert "| BPR-MF | no search |  | 1 | 0.9333 |" in text
    assert "| LightGCN | optim.lr 0.25 |" in text


def test_groups_have_their_bounds_and_none_is_empty():
    assert group_labels((0, 1, 2, 4, 11)) == ["0", "1", "2-3", "4-10", "11+"]
    found = groups(np.array([0, 1, 3, 10, 11, 500]), (0, 1, 2, 4, 11))
    assert {label: np.flatnonzero(inside).tolist() for label, inside in found.items()} == {
        "0": [0], "1": [1], "2-3": [2], "4-10": [3], "11+": [4, 5],
    }  # fmt: skip
    assert [*groups(np.array([2, 60]), (0, 1, 6, 20, 60))] == ["1-5", "60+"]


# From the command to the page -------------------------------------------------------------------


class Fits:
    """The real `fit`, with a note of each call; stops after an epoch of runs that it is told of."""

    def __init__(self, stops):
        self.fit, self.stops, self.ran = study_run.fit, stops, []

    def __call__(self, config, run, resume, quiet, **trial):
        self.ran.append((run.parent.parent.name, run.parent.name, run.name, resume))
        if (run.parent.parent.name, run.parent.name, run.name) not in self.stops or resume:
            self.fit(config, run, resume=resume, quiet=quiet, **trial)
            return

        def stop(*_):
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            # What a run does last in an epoch. The checkpoint is there by then.
            patch.setattr(epochs, "epoch_line", stop)
            self.fit(config, run, resume=resume, quiet=quiet, **trial)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The directory of a comparison that was stopped twice and went on, what was run, and the page
    when it was stopped."""
    pytest.importorskip("optuna", reason="the search needs Optuna")
    pytest.importorskip("matplotlib", reason="the page is drawn with Matplotlib")
    place = tmp_path_factory.mktemp("compare")
    data, out = write_folder(tiny_dataset(), place / "data"), place / "out"
    (place / "mf.yaml").write_text("method: mf\nmf: {dim: 8}\n")
    given = flags({
        "study": "methods", "only": ["mf", "lightgcn"], "trials": 2, "seeds": [1, 2], "out": out,
        "configs": place / "mf.yaml", "data.path": data, "eval.block_users": 16,
        "sampling.batch_size": 48, "train.epochs": 2, "parallel.devices": 1,
    })  # fmt: skip
    fits = Fits(
        {("tuning", "lightgcn", "trial-0001"), *(("mf", f"trial-000{i}", "seed-2") for i in (0, 1))}
    )
    pages = []
    with pytest.MonkeyPatch.context() as patch:
        share_programs(patch)
        patch.setattr(jax, "clear_caches", lambda: None)
        patch.setattr(plots, "RESOLUTION", 40)
        patch.setattr(study_run, "fit", fits)
        for _ in range(2):
            with pytest.raises(SystemExit) as leaving:
                study_command(given)
            assert leaving.value.code == 130
            pages.append((out / "index.html").read_text())
        study_command(given)
        n_ran, table = len(fits.ran), (out / "table.csv").read_text()
        study_command(given)  # nothing is left to do
        assert (len(fits.ran), (out / "table.csv").read_text()) == (n_ran, table)
    return out, fits.ran, pages


@pytest.mark.extras
def test_what_was_done_is_not_done_again(compared):
    _, ran, _ = compared
    chosen = [re.sub(r"trial-000\d", "best", name) for _, name, _, _ in ran]
    assert [
        (group, name, run, resume)
        for (group, _, run, resume), name in zip(ran, chosen, strict=True)
    ] == [
        ("tuning", "lightgcn", "trial-0000", False),
        ("tuning", "lightgcn", "trial-0001", False),
        ("tuning", "lightgcn", "trial-0001", True),  # stopped before
        ("lightgcn", "best", "seed-1", False),
        ("lightgcn", "best", "seed-2", False),
        ("tuning", "mf", "trial-0000", False),
        ("tuning", "mf", "trial-0001", False),
        ("mf", "best", "seed-1", False),
        ("mf", "best", "seed-2", False),
        ("mf", "best", "seed-2", True),  # stopped before
    ]


@pytest.mark.extras
def test_the_table_has_both_methods_and_their_budget(compared):
    out, _, _ = compared
    with (out / "table.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"mf", "lightgcn"}
    dataset = tiny_dataset()
    sizes = {"mf": 8, "lightgcn": 64}
    for name, row in rows.items():
        assert (row["trials"], row["seeds"]) == ("2", "2")
        assert int(row["parameters"]) in [
            (dataset.n_users + dataset.n_items) * sizes[name] + extra
            for extra in (0, dataset.n_items)  # biases, if they were chosen
        ]
        tuning = json.loads((out / "tuning" / name / "tuning.json").read_text())
        runs = [out / "runs" / name / tuning["chosen"] / f"seed-{seed}" for seed in (1, 2)]
        results = [json.loads((run / "result.json").read_text()) for run in runs]
        for metric in ("recall@20", "ndcg@20"):
            values = [result["test"][metric] for result in results]
            assert float(row[metric]) == pytest.approx(np.mean(values))
            assert float(row[f"{metric} deviation"]) == pytest.approx(np.std(values, ddof=1))
        trials = [out / "tuning" / name / f"trial-000{i}" / "result.json" for i in (0, 1)]
        finished = [json.loads(trial.read_text()) for trial in trials if trial.is_file()]
        assert all("test" not in result for result in finished)
        assert tuning["value"] == max(r["validation"]["recall@20"] for r in finished)
    assert sum(not row["recall@20 p"] for row in rows.values()) == 1
    assert (out / "table.md").read_text().count("| LightGCN |") == 5


@pytest.mark.extras
def test_recall_by_group_is_the_count_over_lists(compared):
    out, _, _ = compared
    dataset = tiny_dataset()
    degrees = Degrees(
        np.bincount(dataset.train[:, 0], minlength=dataset.n_users),
        np.bincount(dataset.train[:, 1], minlength=dataset.n_items),
    )
    run = next((out / "runs" / "mf").glob("*/seed-1"))
    users = np.unique(dataset.test[:, 0])
    lists, _ = Recommender.from_run(run, devices=1).recommend(users, 20, "train")
    item_ranges = {"0": (0, 0), "1-5": (1, 5), "6-19": (6, 19), "20-59": (20, 59)}
    hits, pairs = dict.fromkeys(item_ranges, 0), dict.fromkeys(item_ranges, 0)
    of_users = {"0": (0, 0), "1": (1, 1), "2-3": (2, 3), "4-10": (4, 10), "11+": (11, 10**9)}
    recalls = {name: [] for name in of_users}
    for user, listed in zip(users, lists, strict=True):
        own = dataset.test[dataset.test[:, 0] == user, 1]
        for item in own:
            for name, (low, high) in item_ranges.items():
                if low <= degrees.items[item] <= high:
                    pairs[name] += 1
                    hits[name] += int(item in listed)
        for name, (low, high) in of_users.items():
            if low <= degrees.users[user] <= high:
                recalls[name].append(np.mean([item in listed for item in own]))
    finished = Finished({}, [], read_per_user(run))
    expected = {f"recall@20 items {name}": hits[name] / n for name, n in pairs.items() if n}
    expected |= {f"number items {name}": n for name, n in pairs.items() if n}
    assert recall_by_item_group(finished, degrees) == pytest.approx(expected)
    expected = {f"recall@20 users {name}": np.mean(r) for name, r in recalls.items() if r}
    expected |= {f"number users {name}": len(r) for name, r in recalls.items() if r}
    assert recall_by_user_group(finished, degrees) == pytest.approx(expected)
    assert sum(pairs.values()) == len(dataset.test)


@pytest.mark.extras
def test_the_page_is_whole_at_any_time(compared):
    out, _, (first, second) = compared
    page = (out / "index.html").read_text()
    for text in (first, second, page):
        assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text)
        assert not re.findall(r"https?://|url\(|@import|<script|<link", text)
    assert "1 of 2 trials so far" in first
    assert "<img" not in first
    assert "<td>waits</td>" in first
    assert second.count("<img") == page.count("<img") == 5
    assert "1 of 2" in second
    for heading in ("Progress", "Accuracy", "Users by activity", "Items by popularity", "Cost"):
        assert f"<h2>{heading}</h2>" in page
    assert len(re.findall(r'<img alt="[^"]{40,}"', page)) == 5
