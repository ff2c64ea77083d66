"""The host's side of training: early stopping, refusals, losses that blow up, what is written."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from mmssl_jax.checkpoint import open_checkpoints, restore_record
from mmssl_jax.config import ConfigError
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.ranking.per_user import read_per_user
from mmssl_jax.records.log import read_records
from mmssl_jax.training import epochs
from mmssl_jax.training.errors import RunError
from mmssl_jax.training.loop import fit, resume_line
from mmssl_jax.training.part import NOT_BEGUN, Part
from mmssl_jax.training.progress import Progress
from tests.problems import STEPS, share_programs, tiny_config, tiny_dataset


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    with pytest.MonkeyPatch.context() as patch:
        share_programs(patch)
        yield


def after_values(values) -> Progress:
    progress = Progress()
    for value in values:
        progress = progress.after(value, progress.steps + STEPS)
    return progress


def test_progress_counts_epochs_and_keeps_the_best():
    assert after_values([0.1, 0.3, 0.2]) == Progress(3, 3 * STEPS, 0.3, 1, 1)
    assert after_values([0.1, 0.3, 0.2, 0.4]) == Progress(4, 4 * STEPS, 0.4, 3, 0)


def test_an_equal_value_is_a_miss():
    assert after_values([0.3, 0.3]).misses == 1
    assert after_values([0.3, 0.3]).best_epoch == 0


def test_the_first_epoch_is_the_best_whatever_its_value():
    assert after_values([0.0]) == Progress(1, STEPS, 0.0, 0, 0)


def test_patience_7_stops_at_the_eighth_miss():
    config = tiny_config("paper", {"train.epochs": 1000})
    assert config.train.patience == 7
    for misses in range(8):
        assert not after_values([0.5] + [0.4] * misses).is_over(config)
    assert after_values([0.5] + [0.4] * 8).is_over(config)
    assert not after_values([0.5] + [0.4] * 7 + [0.6] + [0.4] * 7).is_over(config)


def test_epochs_and_steps_end_a_run():
    config = tiny_config("paper", {"train.epochs": 3})
    assert [Progress(epochs=n).is_over(config) for n in (2, 3)] == [False, True]
    limited = tiny_config("paper", {"train.epochs": 3, "train.max_steps": 7})
    assert [Progress(epochs=1, steps=n).is_over(limited) for n in (6, 7)] == [False, True]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory and the result of a run of three epochs."""
    run = tmp_path_factory.mktemp("runs") / "nested" / "run"
    return run, fit(tiny_config(), run, dataset=tiny_dataset(), quiet=True)


def test_what_a_run_leaves_behind(finished):
    run, result = finished
    assert {path.name for path in run.iterdir()} == {
        "checkpoints", "config.yaml", "dataset.json", "environment.json",
        "lock", "metrics.jsonl", "per_user.npz", "result.json",
    }  # fmt: skip
    assert json.loads((run / "result.json").read_text()) == result
    dataset = json.loads((run / "dataset.json").read_text())
    assert dataset["users"] == 60
    assert dataset["train"] == len(tiny_dataset().train)
    assert dataset["modalities"] == {"acoustic": 6, "visual": 6}


def test_the_log_has_an_epoch_a_line(finished):
    run, result = finished
    records = read_records(run / "metrics.jsonl")
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert [record["step"] for record in records] == [5, 10, 15]
    values = [record["validation/recall@20"] for record in records]
    assert result["best_epoch"] == values.index(max(values))
    for record in records:
        for name in ("bpr", "critic_loss", "generator_loss", "gradient_penalty", "adversarial"):
            assert math.isfinite(record[name])


def test_the_result_is_that_of_the_best_epoch(finished):
    run, result = finished
    best = read_records(run / "metrics.jsonl")[result["best_epoch"]]
    for name, value in result["validation"].items():
        assert value == best[f"validation/{name}"]
    assert result["best_step"] == best["step"]
    assert set(result["baselines"]) == {"popularity", "random"}
    assert result["baselines"]["popularity"].keys() == result["test"].keys()


def test_the_test_metrics_are_the_means_over_users(finished):
    run, result = finished
    of_users = read_per_user(run)
    assert of_users["users"].tolist() == np.unique(tiny_dataset().test[:, 0]).tolist()
    for metric in ("recall@20", "ndcg@20"):
        assert of_users[metric].mean() == pytest.approx(result["test"][metric], abs=1e-6)


def test_the_checkpoints_are_those_of_the_best_and_the_last_epoch(finished):
    run, result = finished
    with open_checkpoints(run, "best", read_only=True) as best:
        assert best.latest_step() == result["best_step"]
        assert restore_record(best)["validation"] == result["validation"]
    with open_checkpoints(run, "last", read_only=True) as last:
        assert last.latest_step() == 3 * STEPS


def test_a_directory_in_use_is_refused(finished):
    run, _ = finished
    before = (run / "metrics.jsonl").read_text()
    with pytest.raises(RunError, match="is not empty: add --resume"):
        fit(tiny_config(), run, dataset=tiny_dataset(), quiet=True)
    assert (run / "metrics.jsonl").read_text() == before


def test_a_start_that_was_killed_before_its_settings_starts_again(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("environment.json", "dataset.json.part", "config.yaml.part"):
        (run / name).write_text("{")
    fit(tiny_config("paper", {"train.epochs": 1}), run, dataset=tiny_dataset(), quiet=True)
    assert (run / "result.json").is_file()
    assert json.loads((run / "environment.json").read_text())


class Awaited:
    """Stands for an array, and knows whether anybody has waited for it."""

    def __init__(self, array):
        self.array, self.waited_for = array, False

    def block_until_ready(self):
        self.waited_for = True
        return self


def test_an_epoch_is_timed_until_its_figures_are_there(tmp_path, monkeypatch):
    waited_for, dispatch_epoch, read_figures = [], epochs.dispatch_epoch, epochs.read_figures

    def dispatch(*arguments):
        state, epoch = dispatch_epoch(*arguments)
        return state, epoch._replace(ranking=Awaited(epoch.ranking))

    def read(problem, programs, epoch, *rest):  # called when the seconds were taken
        waited_for.append(epoch.ranking.waited_for)
        return read_figures(problem, programs, epoch._replace(ranking=epoch.ranking.array), *rest)

    monkeypatch.setattr(epochs, "dispatch_epoch", dispatch)
    monkeypatch.setattr(epochs, "read_figures", read)
    config = tiny_config("paper", {"train.epochs": 2})
    fit(config, tmp_path / "run", dataset=tiny_dataset(), quiet=True)
    assert waited_for == [True, True]


def test_resuming_nothing_is_refused(tmp_path):
    with pytest.raises(RunError, match="there is no run to resume"):
        fit(tiny_config(), tmp_path / "run", resume=True, dataset=tiny_dataset(), quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_other_settings_are_refused_with_a_diff(finished):
    changes = {"optim.lr": 0.25, "loss.feature_l2": 0.5, "model.gnn_layers": 1}
    with pytest.raises(RunError) as refused:
        fit(tiny_config("paper", changes), finished[0], True, tiny_dataset(), quiet=True)
    lines = [line.strip() for line in str(refused.value).splitlines()]
    assert "model.gnn_layers: 2 in the run, 1 now" in lines
    assert any(line.startswith("loss.feature_l2:") and "0.5 now" in line for line in lines)
    assert len(lines) == 4  # a head, the two, and what to do; optim.lr may change


def test_other_data_are_refused_with_a_diff(finished):
    other = tiny_dataset(seed=1)
    with pytest.raises(RunError) as refused:
        fit(tiny_config(), finished[0], True, other, quiet=True)
    message, before, now = str(refused.value), len(tiny_dataset().validation), len(other.validation)
    assert before != now
    assert f"dataset validation: {before} in the run, {now} now" in message
    assert "dataset fingerprint" in message


def test_settings_are_checked_first(tmp_path):
    with pytest.raises(ConfigError):
        fit(tiny_config("paper", {"model.heads": 3}), tmp_path / "run", dataset=tiny_dataset())
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_without_validation_is_refused(tmp_path):
    dataset = dataclasses.replace(tiny_dataset(), validation=tiny_dataset().validation[:0])
    with pytest.raises(DatasetError, match="no validation interactions"):
        fit(tiny_config(), tmp_path / "run", dataset=dataset, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    config = tiny_config("paper", {"optim.lr": 1e30})
    with pytest.raises(
        RunError, match=r"epoch 0, step 2: .*bpr.* not finite; nothing had.*optim.lr"
    ):
        fit(config, tmp_path / "run", dataset=tiny_dataset(), quiet=True)


def test_the_last_good_checkpoint_survives(tmp_path, monkeypatch):
    config, run, real = tiny_config(), tmp_path / "run", epochs.check_finite

    def break_epoch_1(problem, part, arrays, progress, outlets):
        if progress.epochs == 1:
            part = part._replace(broken={**part.broken, "bpr": STEPS + 1})
        real(problem, part, arrays, progress, outlets)

    with monkeypatch.context() as patch:
        patch.setattr(epochs, "check_finite", break_epoch_1)
        kept = f"epoch 1, step {STEPS + 2}: bpr not finite; the state after step {STEPS} is kept"
        with pytest.raises(RunError, match=kept):
            fit(config, run, dataset=tiny_dataset(), quiet=True)
    assert [record["epoch"] for record in read_records(run / "metrics.jsonl")] == [0]
    for which in ("best", "last"):
        with open_checkpoints(run, which, read_only=True) as manager:
            assert manager.latest_step() == STEPS
            assert restore_record(manager)["progress"]["epochs"] == 1


def test_an_array_that_is_not_finite_is_named(tmp_path, monkeypatch):
    run, real = tmp_path / "run", epochs.check_finite

    def break_the_critic(problem, part, arrays, progress, outlets):
        broken = {name: False for name in arrays if "critic" in name}
        real(problem, part, arrays | broken, progress, outlets)

    monkeypatch.setattr(epochs, "check_finite", break_the_critic)
    with pytest.raises(
        RunError, match=rf"epoch 0, after step {STEPS}: method/\S*critic\S* not fin"
    ):
        fit(tiny_config(), run, dataset=tiny_dataset(), quiet=True)
    assert not (run / "metrics.jsonl").exists()


def test_best_is_whole_before_last_and_logged_before_both(finished, tmp_path, monkeypatch):
    """So that a run killed at any moment has the best epoch and the log that `last` tells of."""
    run, seen, real = tmp_path / "run", [], epochs.save_checkpoint

    def watch(manager, step, tree, record, words):
        if manager.directory.name == "last":
            best_epoch = record["progress"]["best_epoch"]
            log = run / "metrics.jsonl"
            logged = read_records(log) if log.exists() else []
            with open_checkpoints(run, "best", read_only=True) as best:
                seen.append((best.latest_step() == STEPS * (best_epoch + 1), len(logged)))
        real(manager, step, tree, record, words)

    monkeypatch.setattr(epochs, "save_checkpoint", watch)
    fit(tiny_config(), run, dataset=tiny_dataset(), quiet=True)
    assert seen == [(True, 1), (True, 2), (True, 3)]


def test_max_steps_ends_in_the_middle_of_an_epoch(tmp_path, finished):
    config = tiny_config("paper", {"train.max_steps": STEPS + 1})
    result = fit(config, tmp_path / "run", dataset=tiny_dataset(), quiet=True)
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    assert [record["step"] for record in records] == [STEPS, STEPS + 1]
    assert records[0]["bpr"] == read_records(finished[0] / "metrics.jsonl")[0]["bpr"]
    assert result["test"].keys() >= {"recall@20", "ndcg@5"}


def test_a_run_prints_its_epochs_and_tables(tmp_path, capsys):
    fit(tiny_config("paper", {"train.epochs": 1}), tmp_path / "run", dataset=tiny_dataset())
    shown = capsys.readouterr().out
    for part in ("train interactions", "epoch    0", "val recall@20", "test, epoch 0", "popul"):
        assert part in shown


def test_quiet_prints_nothing(tmp_path, capfd):
    config = tiny_config("paper", {"train.epochs": 1})
    fit(config, tmp_path / "run", dataset=tiny_dataset(), quiet=True)
    assert capfd.readouterr() == ("", "")
    assert jax.config.jax_transfer_guard_device_to_host in (None, "allow")


@pytest.mark.parametrize(
    ("progress", "is_over", "line"),
    [
        (Progress(), False, "no epoch was finished: the run starts anew"),
        (Progress(epochs=3, steps=15), False, "continuing after epoch 2, step 15"),
        (Progress(epochs=3, steps=15), True, "the run was over after epoch 2, step 15"),
    ],
)
def test_a_resumed_run_says_where_it_goes_on(progress, is_over, line):
    assert resume_line(progress, NOT_BEGUN, is_over) == line


def test_a_run_resumed_within_an_epoch_says_so():
    line = resume_line(Progress(epochs=3, steps=15), Part(2, {}, {}), False)
    assert line == "continuing within epoch 3, after step 17"
