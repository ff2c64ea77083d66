"""The search: trials, pruning, going on after an interruption, and what is read of the test."""

import json

import pytest

from mmssl_jax.cli.tune import tune_command
from mmssl_jax.config import override
from mmssl_jax.methods.mf import MFConfig
from mmssl_jax.records.log import append_record, write_json
from mmssl_jax.run_config import dump_config, read_config
from mmssl_jax.study import run as study_run
from mmssl_jax.training import programs
from mmssl_jax.training.errors import DivergedError, RunError
from mmssl_jax.training.lock import only_writer
from mmssl_jax.tune.database import load_optuna
from mmssl_jax.tune.outcome import rerun_best, seed_table, write_best
from mmssl_jax.tune.parameters import changes_of, distributions
from mmssl_jax.tune.search import SearchSettings, search
from mmssl_jax.tune.space import Choices, Range, own_space
from tests.problems import CHANGES, flags, tiny_config, tiny_dataset, write_folder

pytest.importorskip("optuna", reason="the search needs Optuna")
pytestmark = pytest.mark.extras

SPACE = {"optim.lr": Range(1e-4, 1.0, True), "critic.hidden": Choices(((8.0, 4.0), (4.0, 2.0)))}
SETTINGS = SearchSettings(warmup_trials=1, warmup_epochs=0)


@pytest.fixture
def base(tmp_path):
    folder = write_folder(tiny_dataset(), tmp_path / "data")
    return override(tiny_config(), {"data.format": "auto", "data.path": str(folder)})


class FakeFit:
    """Two epochs whose validation value rises with the learning rate; remembers its runs."""

    def __init__(self):
        self.ran, self.stop_at, self.diverge_above = [], None, 2.0

    def __call__(self, config, run, resume, quiet, trial=None):
        splits = ("validation", "test") if trial is None else ("validation",)
        self.ran.append((run.name, resume, splits, config.optim.lr))
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text(dump_config(config))
        if config.optim.lr > self.diverge_above:
            raise DivergedError("epoch 0: bpr not finite")
        for epoch in (0, 1):
            metrics = {"recall@20": config.optim.lr * (epoch + 1), "ndcg@20": 0.5}
            record = {f"validation/{name}": value for name, value in metrics.items()}
            append_record(run / "metrics.jsonl", {
                "epoch": epoch, "step": epoch, "seconds": 0.0, **record,
            })  # fmt: skip
            if trial is not None:
                trial(epoch, metrics)
            if len(self.ran) == self.stop_at:
                raise KeyboardInterrupt
        write_json(run / "result.json", {"best_epoch": 1, **dict.fromkeys(splits, metrics)})


@pytest.fixture
def fake_fit(monkeypatch):
    fake = FakeFit()
    monkeypatch.setattr(study_run, "fit", fake)
    return fake


def run_search(base, out, n_trials, settings=SETTINGS):
    return search(base, SPACE, out, n_trials, settings, lambda line: None)


def test_a_search_counts_pruned_trials_and_adds_only_what_is_missing(base, tmp_path, fake_fit):
    out = tmp_path / "search"
    first = run_search(base, out, 6)
    assert [trial.run for trial in first] == [f"trial-000{i}" for i in range(6)]
    assert [trial.run for trial in first] == [name for name, *_ in fake_fit.ran]
    assert all(splits == ("validation",) for _, _, splits, _ in fake_fit.ran)

    # The median rule, with one value per complete trial at epoch 0: the learning rate itself.
    complete = []
    for trial in first:
        rate = trial.changes["optim.lr"]
        at_median = sorted(complete)
        middle = len(at_median) // 2
        median = (at_median[middle] + at_median[~middle]) / 2 if complete else 0.0
        assert (trial.value is None) == (rate < median)
        if trial.value is None:
            assert trial.reason == "behind the median after epoch 0"
        else:
            assert trial.value == pytest.approx(2 * rate)
            complete.append(rate)
    assert 0 < len(complete) < 6

    again = run_search(base, out, 8)
    assert again[:6] == first
    assert [name for name, *_ in fake_fit.ran[6:]] == ["trial-0006", "trial-0007"]
    assert run_search(base, out, 3) == again
    assert len(fake_fit.ran) == 8


def test_an_interrupted_search_suggests_what_it_would_have(base, tmp_path, fake_fit):
    unpruned = SearchSettings()
    whole = run_search(base, tmp_path / "whole", 4, unpruned)
    fake_fit.ran.clear()
    fake_fit.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        run_search(base, tmp_path / "parts", 4, unpruned)
    fake_fit.stop_at = None
    parts = run_search(base, tmp_path / "parts", 4, unpruned)
    assert [t._replace(seconds=0) for t in parts] == [t._replace(seconds=0) for t in whole]
    assert [(name, resume) for name, resume, *_ in fake_fit.ran] == [
        ("trial-0000", False),
        ("trial-0001", False),
        ("trial-0001", True),
        ("trial-0002", False),
        ("trial-0003", False),
    ]
    other = run_search(base, tmp_path / "other", 2, unpruned._replace(seed=100))
    assert other[1].changes != whole[1].changes


def test_the_first_trial_is_what_the_search_starts_from(base, tmp_path, fake_fit):
    start = override(base, {"optim.lr": 0.01, "critic.hidden": (4.0, 2.0)})
    first, second = run_search(start, tmp_path / "inside", 2)
    assert first.changes == {"optim.lr": 0.01, "critic.hidden": (4.0, 2.0)}
    assert second.changes != first.changes
    outside = override(start, {"optim.lr": 1.5})
    assert run_search(outside, tmp_path / "outside", 1)[0].changes["optim.lr"] <= 1.0


def test_no_trial_begins_when_the_time_is_spent(base, tmp_path, fake_fit):
    out, no_time = tmp_path / "search", SETTINGS._replace(minutes=1e-9)
    (first,) = run_search(base, out, 3, no_time)
    assert first.seconds > 0
    assert run_search(base, out, 3, no_time) == [first]
    fake_fit.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        run_search(base, out, 3)
    # One that was interrupted has begun already: it is finished, and counts what it had taken.
    append_record(out / "trial-0001" / "metrics.jsonl", {
        "epoch": 1, "step": 1, "seconds": 100.0, "validation/recall@20": 0.5,
    })  # fmt: skip
    done = run_search(base, out, 3, no_time)
    assert [trial.run for trial in done] == ["trial-0000", "trial-0001"]
    assert done[1].seconds > 100
    assert len(run_search(base, out, 3, SETTINGS._replace(minutes=60))) == 3


def test_a_diverged_trial_counts_as_pruned(base, tmp_path, fake_fit):
    fake_fit.diverge_above = 0.01
    trials = run_search(base, tmp_path / "search", 5)
    diverged = [t for t in trials if t.changes["optim.lr"] > 0.01]
    assert diverged
    assert {(t.value, t.reason) for t in diverged} == {(None, "epoch 0: bpr not finite")}
    fake_fit.diverge_above = 0.0
    broken = run_search(base, tmp_path / "broken", 2)
    with pytest.raises(RunError, match=r"none of 2 trials finished \(epoch 0: bpr not finite\)"):
        write_best(base, broken, tmp_path / "broken")


def test_settings_that_do_not_fit_together_are_a_pruned_trial(base, tmp_path, fake_fit):
    space = {"critic.hidden": Choices(((8.0,), (4.0,)))}
    (trial,) = search(base, space, tmp_path / "search", 1, SETTINGS, lambda line: None)
    assert trial.value is None
    assert "one rate per width" in trial.reason
    assert not fake_fit.ran


def test_two_searches_at_once_are_refused(base, tmp_path, fake_fit):
    run_search(base, tmp_path / "search", 1)
    with only_writer(tmp_path / "search"), pytest.raises(RunError, match="in use by process"):
        run_search(base, tmp_path / "search", 2)
    assert len(run_search(base, tmp_path / "search", 2)) == 2


def test_a_search_lies_where_its_path_says(base, tmp_path, fake_fit):
    for name in ("a?b", "a?c", "100%41"):
        assert len(run_search(base, tmp_path / name, 1)) == 1
        assert (tmp_path / name / "study.db").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"data", "a?b", "a?c", "100%41"}


def test_a_damaged_study_is_told(base, tmp_path, fake_fit):
    out = tmp_path / "search"
    run_search(base, out, 1)
    for content in (b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 5000):
        (out / "study.db").write_bytes(content)
        with pytest.raises(RunError, match=r"study\.db: the trials .* from a copy"):
            run_search(base, out, 2)
    (out / "study.db").unlink()
    (out / "study.db").mkdir()
    with pytest.raises(RunError, match=r"study\.db is no file"):
        run_search(base, out, 2)


def test_another_search_in_the_same_place_is_refused(base, tmp_path, fake_fit):
    out = tmp_path / "search"
    run_search(base, out, 1)
    with pytest.raises(RunError, match=r"model\.dim: 8 in the search, 4 now"):
        run_search(override(base, {"model.dim": 4}), out, 1)
    with pytest.raises(RunError, match=r"space optim\.lr: .* in the search, None now"):
        search(base, {"optim.critic_lr": Range(1e-4, 1.0)}, out, 1, SETTINGS, print)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(RunError, match="holds no search"):
        run_search(base, tmp_path / "used", 1)


def test_the_best_is_written_and_run_with_seeds(base, tmp_path, fake_fit):
    out = tmp_path / "search"
    trials = run_search(base, out, 4)
    best, config = write_best(base, trials, out)
    assert best.value == max(t.value for t in trials if t.value is not None)
    text = (out / "best.yaml").read_text()
    assert text.startswith("# The best of 4 trials (")
    assert f"{best.run},\n# validation recall@20 {best.value:.5f}" in text
    assert read_config(out / "best.yaml") == config == override(base, best.changes)
    fake_fit.ran.clear()
    table = rerun_best(config, best.run, out, (1, 2))
    assert [(name, splits) for name, _, splits, _ in fake_fit.ran] == [
        (f"seed-{seed}", ("validation", "test")) for seed in (1, 2)
    ]
    assert f"| test | recall@20 | 2 | {best.value:.4f} | 0.0000 |" in table
    assert (out / "best.md").read_text() == table
    rerun_best(config, best.run, out, (1, 2))
    assert len(fake_fit.ran) == 2


def test_the_seed_table_is_over_the_sample():
    def result(value):
        return {"validation": {"recall@5": value}, "test": {"recall@5": 2 * value}}

    table = seed_table({"base": {1: result(0.1), 2: result(0.3)}}, "recall@5")
    assert table.splitlines()[2:] == [
        "| validation | recall@5 | 2 | 0.2000 | 0.1414 |",
        "| test | recall@5 | 2 | 0.4000 | 0.2828 |",
    ]


def test_suggestions_come_back_as_settings():
    optuna = load_optuna()
    space = {
        **SPACE,
        "model.gnn_layers": Range(1, 3, is_whole=True),
        "structure.k_rate": Choices((None, 0.1)),
        "loss.temperature": Range(0.5, 1.0, step=0.25),
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = [changes_of(space, study.ask(distributions(optuna, space)).params) for _ in range(40)]
    assert {s["critic.hidden"] for s in seen} == {(8.0, 4.0), (4.0, 2.0)}
    assert {s["structure.k_rate"] for s in seen} == {None, 0.1}
    assert {s["model.gnn_layers"] for s in seen} == {1, 2, 3}
    assert {s["loss.temperature"] for s in seen} == {0.5, 0.75, 1.0}
    assert all(1e-4 <= s["optim.lr"] <= 1.0 for s in seen)


@pytest.mark.slow
def test_the_command_trains_and_reads_the_test_split_last(base, tmp_path, capsys, monkeypatch):
    evaluated, prepare = [], programs.split_evaluator

    def noted(of_problem, split):
        evaluated.append(split)
        return prepare(of_problem, split)

    monkeypatch.setattr(programs, "split_evaluator", noted)
    space, out = tmp_path / "space.yaml", tmp_path / "search"
    space.write_text("optim.lr: {low: 1e-3, high: 1e-1, log: true}\n")
    data = {"data.path": base.data.path, "data.format": "auto"}
    short = {"train.epochs": 1, "game.weight": 0.0}  # without the game there is less to compile
    given = [*flags({**CHANGES, **data, **short}), f"--space={space}", f"--out={out}"]
    tune_command([*given, "--trials=1", "--seeds=[]"])
    assert evaluated == ["validation"]
    first = json.loads((out / "trial-0000" / "result.json").read_text())
    assert "test" not in first
    assert first["baselines"] == {}
    tune_command([*given, "--trials=2", "--seeds=[1]"])
    assert evaluated == ["validation"] * 2 + ["validation", "test"]
    shown = capsys.readouterr().out
    assert shown.count("trial-0000  recall@20") == 1
    assert "| test | recall@20 | 1 |" in shown
    assert read_config(out / "best.yaml").optim.lr != 0.01


def test_without_a_file_the_method_says_what_is_searched(tmp_path):
    """Two trials, cut short, of a method that declares a space."""
    given = ["--method=mf", "--data.format=synthetic", "--train.max_steps=1", "--trials=2"]
    tune_command([*given, f"--out={tmp_path / 'mf'}", "--seeds=[]"])
    found = [read_config(tmp_path / "mf" / f"trial-000{i}" / "config.yaml") for i in (0, 1)]
    assert set(own_space(MFConfig())) == {"optim.lr", "mf.regularization", "mf.item_bias"}
    assert found[0].optim.lr == MFConfig().optim.lr != found[1].optim.lr
