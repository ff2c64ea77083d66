"""The command lines: what they print, refuse, resume and evaluate again."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmssl_jax.cli.eval import eval_command
from mmssl_jax.cli.train import default_run, train_command
from mmssl_jax.config import DataConfig
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.data.load import require_data
from mmssl_jax.records.log import read_records
from tests.problems import CHANGES, flags, share_programs, tiny_dataset, write_folder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    with pytest.MonkeyPatch.context() as patch:
        share_programs(patch)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tiny_dataset(), tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def settings(folder):
    """The flags of a tiny run on the folder."""
    return flags({**CHANGES, "data.format": "auto", "data.path": folder, "train.epochs": 2})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, settings):
    run = tmp_path_factory.mktemp("runs") / "run"
    train_command([*settings, f"--run={run}"])
    return run


@pytest.fixture
def printed(capsys):
    """What a command prints."""

    def call(command, *arguments) -> str:
        capsys.readouterr()
        command([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return call


@pytest.fixture
def refused(capsys):
    """The message of a command that must be refused."""

    def call(command, *arguments) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            command([str(argument) for argument in arguments])
        assert leaving.value.code == 2
        message = capsys.readouterr().err
        assert "error:" in message
        assert "Traceback" not in message
        return message

    return call


def rows_of(table: str) -> list[list[str]]:
    """The rows of our own ranking, as words."""
    return [line.split() for line in table.splitlines() if line.startswith("MMSSL")]


def copy_of(run: Path, place: Path) -> Path:
    return Path(shutil.copytree(run, place / "run"))


def test_a_run_prints_its_metrics_and_how_to_see_them_again(printed, settings, tmp_path):
    out = printed(train_command, *settings, "--run", tmp_path / "run")
    assert "train interactions" in out
    assert len(re.findall(r"^epoch +\d", out, re.M)) == 2
    assert f"python eval.py --run {tmp_path / 'run'} --split test" in out
    rows = rows_of(out)
    assert [row[1] for row in rows] == ["5", "20", "5", "20"]  # validation, then test
    for split, shown in (("validation", rows[:2]), ("test", rows[2:])):
        again = printed(eval_command, "--run", tmp_path / "run", "--split", split)
        assert rows_of(again) == shown


def test_evaluating_gives_the_numbers_of_the_result(finished, printed):
    result = json.loads((finished / "result.json").read_text())
    for split in ("validation", "test"):
        rows = rows_of(printed(eval_command, f"--run={finished}", f"--split={split}"))
        assert [row[2] for row in rows] == [f"{result[split][f'recall@{k}']:.5f}" for k in (5, 20)]
    assert rows_of(printed(eval_command, f"--run={finished}")) == rows  # test is the default


def test_the_last_checkpoint(finished, printed):
    rows = rows_of(
        printed(eval_command, f"--run={finished}", "--split=validation", "--checkpoint=last")
    )
    last = read_records(finished / "metrics.jsonl")[-1]
    assert [row[2] for row in rows] == [f"{last[f'validation/recall@{k}']:.5f}" for k in (5, 20)]


def test_a_dataset_that_moved(finished, folder, printed, tmp_path, refused):
    run = copy_of(finished, tmp_path)
    saved = run / "config.yaml"
    saved.write_text(saved.read_text().replace(str(folder), str(tmp_path / "gone")))
    assert "gone" in refused(eval_command, f"--run={run}")
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    expected = printed(eval_command, f"--run={finished}")
    assert printed(eval_command, f"--run={run}", f"--data_path={moved}") == expected
    assert printed(eval_command, f"--run={run}", "--data.path", moved) == expected
    message = refused(eval_command, f"--run={run}", f"--data-path={moved}", "--cold-items")
    assert "this run has no cold items: train one with --data.cold_items 0.1" in message


def test_a_dataset_that_changed(finished, folder, refused, tmp_path):
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    table = changed / "tiny.inter"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    message = refused(eval_command, f"--run={finished}", f"--data_path={changed}")
    assert "is not the data that" in message
    assert "--data_path" in message
    run = copy_of(finished, tmp_path)
    message = refused(train_command, f"--run={run}", "--resume", f"--data.path={changed}")
    assert "dataset test:" in message


def test_evaluating_what_is_no_run(refused, tmp_path):
    assert "is not the directory of a run" in refused(eval_command, f"--run={tmp_path}")


def test_evaluating_a_run_without_checkpoints(finished, refused, tmp_path):
    run = copy_of(finished, tmp_path)
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoints at" in refused(eval_command, f"--run={run}")


@pytest.mark.parametrize(
    "flag", ["--split=train", "--checkpoint=first", "--splitt=test", "--filter=some"]
)
def test_flags_of_eval_are_checked(finished, refused, flag):
    assert flag[2:].split("=")[0] in refused(eval_command, f"--run={finished}", flag)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--k=5"], "--k is the length of --export's lists"),
        (["--filter=all"], "--filter says what --export's lists leave out"),
        (["--filter", "all", "--export-embeddings=x.npz"], "--filter says what --export's lists"),
        (["--export=top.csv", "--split", "test"], "--split is for evaluating"),
        (["--cold-items", "--split=test"], "--split is for evaluating"),
    ],
)
def test_flags_of_eval_that_would_do_nothing_are_refused(finished, refused, flags, message):
    assert message in refused(eval_command, f"--run={finished}", *flags)


def test_an_export_leaves_out_what_it_is_told_to(finished, printed, tmp_path):
    """By default training items alone."""
    dataset, pairs = tiny_dataset(), {}
    for what in ("--devices=1", "--filter=train", "--filter=all"):
        file = tmp_path / f"{what}.csv"
        printed(eval_command, f"--run={finished}", f"--export={file}", "--k=40", what)
        rows = [line.split(",") for line in file.read_text().splitlines()[1:]]
        pairs[what] = {(int(user), int(item)) for user, _, item, _ in rows}
    train, every = (
        {tuple(pair) for edges in splits for pair in edges.tolist()}
        for splits in ([dataset.train], dataset.splits.values())
    )
    assert pairs["--devices=1"] == pairs["--filter=train"]
    assert pairs["--filter=all"] == pairs["--filter=train"] - every
    assert pairs["--filter=train"] & every == every - train


def test_resume_needs_a_run(refused, settings):
    assert "--resume needs --run DIR" in refused(train_command, *settings, "--resume")


def test_a_directory_in_use(refused, finished, settings):
    message = refused(train_command, *settings, f"--run={finished}")
    assert "is not empty: add --resume" in message


def test_resume_where_there_is_no_run(refused, settings, tmp_path):
    message = refused(train_command, *settings, f"--run={tmp_path / 'none'}", "--resume")
    assert "there is no run to resume" in message


def test_resume_refuses_other_settings_with_a_diff(refused, finished):
    message = refused(train_command, f"--run={finished}", "--resume", "--train.seed=5")
    assert "train.seed: 2022 in the run, 5 now" in message
    message = refused(train_command, f"--run={finished}", "--resume", "--preset=released")
    assert "preset: paper in the run, released now" in message


def test_a_bare_resume_keeps_the_settings_of_the_run(printed, finished, tmp_path):
    run = copy_of(finished, tmp_path)
    before = read_records(run / "metrics.jsonl")
    printed(train_command, "--run", run, "--resume")
    assert read_records(run / "metrics.jsonl") == before
    printed(train_command, f"--run={run}", "--resume", "--train.epochs=3")
    records = read_records(run / "metrics.jsonl")
    assert records[:2] == before
    assert [record["epoch"] for record in records] == [0, 1, 2]


def test_data_that_are_missing(refused, tmp_path):
    run = f"--run={tmp_path / 'run'}"
    assert "data.path is empty" in refused(train_command, run)
    assert "nowhere" in refused(train_command, run, f"--data.path={tmp_path / 'nowhere'}")
    assert not (tmp_path / "run").exists()


def test_data_that_are_broken(refused, folder, tmp_path):
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    (broken / "tiny.inter").write_text("userID\titemID\n0\t0\n")
    message = refused(train_command, f"--run={tmp_path / 'run'}", f"--data.path={broken}")
    assert "x_label" in message


def test_devices_that_do_not_fit(refused, settings, tmp_path):
    run = f"--run={tmp_path / 'run'}"
    message = refused(train_command, *settings, run, "--parallel.devices=9")
    assert "has 4 local cpu device" in message
    message = refused(
        train_command, *settings, run, "--parallel.devices=4", "--sampling.batch_size=30"
    )
    assert "cannot be shared by 4 devices" in message
    assert not (tmp_path / "run").exists()


def test_where_runs_go():
    assert re.fullmatch(r"runs/baby-\d{8}-\d{6}", str(default_run(["a.yaml", "c/baby.yaml"], "")))
    assert default_run([], "lightgcn").name.startswith("lightgcn-")


def test_a_run_without_a_name(printed, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "small.yaml"
    file.write_text("train: {epochs: 1}\n")
    out = printed(train_command, *settings, "--config", file, "--train.epochs=1")
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("small-")
    assert f"run: runs/{run.name}" in out


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_the_scripts_show_their_help(script):
    shown = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--run" in shown.stdout
    assert shown.stderr == ""


def test_a_dataset_that_moved_is_asked_for(tmp_path):
    config = DataConfig(path=str(tmp_path / "gone"))
    with pytest.raises(DatasetError, match=r"gone: no folder .*--data\.path .*--data_path"):
        require_data(config, tmp_path / "run")
    require_data(DataConfig(format="synthetic"), tmp_path / "run")
