"""Where a run goes on when some of its checkpoints or its log are damaged, lost or foreign."""

import json
import shutil

import pytest

from mmssl_jax.checkpoint import CheckpointError, CheckpointWarning
from mmssl_jax.config import override
from mmssl_jax.methods.mf import MFConfig
from mmssl_jax.records.log import read_log, read_records
from mmssl_jax.training.errors import RunError
from mmssl_jax.training.loop import fit
from mmssl_jax.training.restore import restore_run
from tests.problems import share_programs, tiny_dataset


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    with pytest.MonkeyPatch.context() as patch:
        share_programs(patch)
        yield


CHANGES = {
    "data.format": "synthetic",
    "mf.dim": 4,
    "sampling.batch_size": 48,
    "eval.ks": (5, 20),
    "eval.block_users": 16,
    "train.epochs": 3,
    "train.patience": 100,
}


def config_of(**changes):
    return override(
        MFConfig(), CHANGES | {key.replace("_", ".", 1): changes[key] for key in changes}
    )


def go(run, resume=False, **changes):
    return fit(config_of(**changes), run, resume, tiny_dataset(), quiet=True)


def outcome(run):
    """What a run leaves, but for its times."""
    records = [record | {"seconds": 0} for record in read_records(run / "metrics.jsonl")]
    return records, json.loads((run / "result.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of three epochs, and its outcome after a fourth and fifth."""
    folder = tmp_path_factory.mktemp("made")
    go(folder / "run")
    shutil.copytree(folder / "run", folder / "longer")
    go(folder / "longer", resume=True, train_epochs=5)
    return folder / "run", outcome(folder / "longer")


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "run")


def steps_of(run, which):
    return sorted(int(path.name) for path in (run / "checkpoints" / which).iterdir())


def spoil(run, which, step):
    for file in (run / "checkpoints" / which / str(step) / "tree").rglob("d/*"):
        file.write_bytes(b"")


def resumed(run, capsys, **changes):
    """What a resumed run of five epochs says, and its outcome."""
    capsys.readouterr()
    fit(config_of(train_epochs=5, **changes), run, True, tiny_dataset())
    return capsys.readouterr().out, outcome(run)


def test_two_of_last_are_kept(run):
    assert len(steps_of(run, "last")) == 2


def test_a_damaged_last_falls_back_to_the_one_before(made, run, capsys):
    older, newest = steps_of(run, "last")
    spoil(run, "last", newest)
    said, found = resumed(run, capsys)
    assert f"last/{newest} is damaged" in said
    assert f"continuing after epoch 1, step {older}" in said
    assert (run / "checkpoints" / "damaged" / f"last-{newest}").is_dir()
    assert found == made[1]


def test_damage_to_every_last_falls_back_to_best(made, run, capsys):
    for step in steps_of(run, "last"):
        spoil(run, "last", step)
    said, found = resumed(run, capsys)
    assert "going on from `best`" in said
    assert found == made[1]


def test_a_lost_last_is_told_and_empties_no_log(made, run, capsys):
    shutil.rmtree(run / "checkpoints" / "last")
    best = steps_of(run, "best")[-1]
    said, found = resumed(run, capsys)
    assert f"there is no checkpoint `last`: going on from `best`, step {best}" in said
    assert "no epoch was finished" not in said
    assert found == made[1]


def test_a_lost_best_is_told_at_the_start(run, capsys):
    shutil.rmtree(run / "checkpoints" / "best")
    said, (records, result) = resumed(run, capsys)
    lost, training = (
        said.index("is lost: epoch 2, the last one, takes its place"),
        said.index("training;"),
    )
    assert lost < training
    assert result["best_epoch"] >= 2
    values = {record["epoch"]: record["validation/recall@20"] for record in records[2:]}
    assert values[result["best_epoch"]] == max(values.values())


def test_a_lost_best_of_a_finished_run_is_told(run, capsys):
    shutil.rmtree(run / "checkpoints" / "best")
    capsys.readouterr()
    result = fit(config_of(), run, True, tiny_dataset())
    assert "epoch 2, the last one, takes its place" in capsys.readouterr().out
    assert result["best_epoch"] == 2


def test_no_whole_checkpoint_is_an_error_that_names_one(run):
    before = (run / "metrics.jsonl").read_text()
    for which in ("last", "best"):
        for step in steps_of(run, which):
            spoil(run, which, step)
    with (
        pytest.warns(CheckpointWarning, match="it is put aside"),
        pytest.raises(CheckpointError, match=r"no whole checkpoint is left: .*damaged"),
    ):
        go(run, resume=True)
    assert (run / "metrics.jsonl").read_text() == before


def test_a_log_without_checkpoints_is_an_error(run):
    before = (run / "metrics.jsonl").read_text()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(RunError, match=r"3 epochs, but .* no checkpoint to go on from"):
        go(run, resume=True)
    assert (run / "metrics.jsonl").read_text() == before


def test_a_foreign_checkpoint_is_refused_with_the_setting(run, tmp_path):
    go(tmp_path / "other", train_seed=7, train_epochs=5)
    step = steps_of(tmp_path / "other", "last")[-1]
    shutil.copytree(
        tmp_path / "other" / "checkpoints" / "last" / str(step),
        run / "checkpoints" / "last" / str(step),
    )
    with pytest.raises(
        CheckpointError, match=r"(?s)other settings.*train.seed: 7 in the checkpoint"
    ):
        go(run, resume=True, train_epochs=6)


def test_a_foreign_best_is_refused(run, tmp_path):
    go(tmp_path / "other", train_seed=7)
    shutil.rmtree(run / "checkpoints" / "best")
    shutil.copytree(tmp_path / "other" / "checkpoints" / "best", run / "checkpoints" / "best")
    with pytest.raises(CheckpointError, match=r"(?s)other settings.*train.seed: 7"):
        go(run, resume=True, train_epochs=4)


def test_a_best_later_than_last_is_made_anew(made, run, capsys):
    """Its process died between the two saves; the older best is still there."""
    newest = steps_of(run, "last")[-1]
    shutil.rmtree(run / "checkpoints" / "last" / str(newest))
    _, found = resumed(run, capsys)
    assert found == made[1]


def test_a_renamed_step_is_noticed(made, run, capsys):
    newest = steps_of(run, "last")[-1]
    (run / "checkpoints" / "last" / str(newest)).rename(run / "checkpoints" / "last" / "999")
    said, found = resumed(run, capsys)
    assert f"last/999 is damaged: its record is of step {newest}" in said
    assert found == made[1]


def test_damaged_lines_of_the_log_are_named_and_the_others_kept(made, run, capsys):
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], lines[1][:40], lines[2], ""]))
    said, (records, _) = resumed(run, capsys)
    assert "metrics.jsonl: line 2 is damaged and left out; the others are kept" in said
    assert [record["epoch"] for record in records] == [0, 2, 3, 4]
    assert records == [record for record in made[1][0] if record["epoch"] != 1]


def test_another_rate_goes_on_and_is_noted(made, run, capsys):
    _, (records, _) = resumed(run, capsys, optim_lr=0.5)
    assert records[:3] == made[1][0][:3]
    assert records[3]["bpr"] != made[1][0][3]["bpr"]
    (note,) = read_log(run / "metrics.jsonl").notes
    assert note["step"] == records[2]["step"]
    assert note["note"].startswith("optim.lr: ")
    assert "0.5 now" in note["note"]
    fit(config_of(train_epochs=6, optim_lr=0.5), run, True, tiny_dataset(), quiet=True)
    assert read_log(run / "metrics.jsonl").notes == [note]


def test_a_changed_config_is_refused_where_a_run_is_evaluated(run):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("regularization: ", "regularization: 1"))
    with pytest.raises(CheckpointError, match=r"(?s)mf.regularization: .* in config.yaml"):
        restore_run(run, dataset=tiny_dataset())


def test_evaluation_reads_the_newest_whole_last_and_warns(run):
    older, newest = steps_of(run, "last")
    spoil(run, "last", newest)
    with pytest.warns(CheckpointWarning, match=f"last/{newest} is damaged .*step {older} is read"):
        _, state = restore_run(run, "last", dataset=tiny_dataset())
    assert int(state.step) == older
    assert steps_of(run, "last") == [older, newest]


def test_evaluation_of_a_damaged_best_is_refused(run):
    spoil(run, "best", steps_of(run, "best")[-1])
    with pytest.raises(CheckpointError, match=r"no whole checkpoint in .*best.*is damaged"):
        restore_run(run, dataset=tiny_dataset())
