"""The command lines of a method that is not the default: its own settings, runs, and studies."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from mmssl_jax.cli.eval import eval_command
from mmssl_jax.cli.report import report_command
from mmssl_jax.cli.study import study_command
from mmssl_jax.cli.train import train_command
from mmssl_jax.cli.tune import tune_command
from mmssl_jax.config import flatten
from mmssl_jax.methods import METHODS
from mmssl_jax.methods.lightgcn import LightGCNConfig
from mmssl_jax.recommend import Recommender
from mmssl_jax.records.log import read_records
from mmssl_jax.run_config import read_config
from mmssl_jax.study.variants import study_texts, study_variants
from tests.problems import flags, share_programs, tiny_dataset, write_folder

COMMANDS = {"train.py": train_command, "study": study_command, "tune": tune_command}
LIGHTGCN = {
    "method": "lightgcn",
    "data.format": "mmrec",
    "lightgcn.dim": 8,
    "sampling.batch_size": 48,
    "optim.lr": 0.01,
    "train.epochs": 2,
    "eval.ks": (5, 20),
    "parallel.devices": 1,
}


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    with pytest.MonkeyPatch.context() as patch:
        share_programs(patch)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tiny_dataset(), tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def settings(folder) -> list[str]:
    return flags({**LIGHTGCN, "data.path": folder})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, settings) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    train_command([*settings, f"--run={run}"])
    return run


@pytest.fixture
def left(capsys) -> Callable[..., str]:
    """What a command prints that leaves with a status."""

    def call(status: int, command, *arguments) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            command([str(argument) for argument in arguments])
        assert leaving.value.code == status
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return printed.err if status else printed.out

    return call


def offered(text: str) -> set[str]:
    return set(re.findall(r"^  --([\w.]+)", text, re.MULTILINE))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("method", METHODS)
def test_help_has_the_settings_of_the_method_alone(left, command, method):
    own = set(flatten(METHODS[method].CONFIG()))
    others = {key for each in METHODS.values() for key in flatten(each.CONFIG())} - own
    found = offered(left(0, COMMANDS[command], "--method", method, "--help"))
    assert own <= found
    assert not others & found
    assert ("lightgcn.dim" in found) == (method == "lightgcn")
    assert ("model.dim" in found) == (method == "mmssl")


def test_help_without_a_method_is_that_of_the_default(left):
    assert left(0, train_command, "--help") == left(0, train_command, "--method=mmssl", "--help")


def test_a_file_chooses_the_method_and_a_flag_another(left, tmp_path):
    (tmp_path / "c.yaml").write_text("method: lightgcn\n")
    file = f"--config={tmp_path / 'c.yaml'}"
    assert "lightgcn.dim" in offered(left(0, train_command, file, "--help"))
    assert "model.dim" in offered(left(0, train_command, file, "--method=mmssl", "--help"))
    (tmp_path / "later.yaml").write_text("optim: {lr: 0.5}\n")
    later = f"--config={tmp_path / 'later.yaml'}"
    assert "lightgcn.dim" in offered(left(0, train_command, file, later, "--help"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_flag_of_another_method_names_the_nearest(left, command):
    message = left(2, COMMANDS[command], "--method", "lightgcn", "--model.dim", "3")
    assert "there is no setting 'model.dim'; the nearest is 'lightgcn.dim'" in message
    assert "--method lightgcn --help" in message
    message = left(2, COMMANDS[command], "--lightgcn.dim=3")
    assert "there is no setting 'lightgcn.dim'; the nearest is 'model.dim'" in message


def test_a_key_of_another_method_names_the_nearest(left, tmp_path):
    file = tmp_path / "c.yaml"
    for text, key, nearest in (
        ("method: lightgcn\nmodel: {dim: 3}\n", "model.dim", "lightgcn.dim"),
        ("lightgcn: {dim: 3}\n", "lightgcn.dim", "model.dim"),
        ("method: lightgcn\nlightgcn: {layer: 3}\n", "lightgcn.layer", "lightgcn.layers"),
        ("method: lightgcn\noptim: {critic_lr: 3}\n", "optim.critic_lr", "optim.lr"),
    ):
        file.write_text(text)
        message = left(2, train_command, f"--config={file}")
        assert f"there is no setting {key!r}; the nearest is {nearest!r}" in message


def test_an_unknown_method_names_the_nearest_and_all(left, tmp_path):
    (tmp_path / "c.yaml").write_text("method: lightgnc\n")
    for given in (["--method", "lightgnc"], [f"--config={tmp_path / 'c.yaml'}"]):
        for command in COMMANDS.values():
            message = left(2, command, *given)
            assert "there is no method 'lightgnc'; the nearest is 'lightgcn'" in message
            assert f"there are {', '.join(METHODS)}" in message
    assert "the nearest is 'mmssl'" in left(2, train_command, "--method=MMSSL", "--help")


def test_a_run_from_its_flags_to_its_result(finished, folder):
    config = read_config(finished / "config.yaml")
    assert isinstance(config, LightGCNConfig)
    saved = yaml.safe_load((finished / "config.yaml").read_text())
    assert saved["method"] == "lightgcn"
    assert saved["data"]["path"] == str(folder)
    assert {"model", "critic", "game"}.isdisjoint(saved)
    records = read_records(finished / "metrics.jsonl")
    assert [record["epoch"] for record in records] == [0, 1]
    assert all(set(record) >= {"bpr", "loss", "validation/recall@20"} for record in records)
    assert not [name for name in records[0] if "critic" in name or "generator" in name]
    result = json.loads((finished / "result.json").read_text())
    assert result["test"].keys() == result["baselines"]["popularity"].keys()


def test_evaluation_keeps_the_method_of_the_run(finished, capsys):
    result = json.loads((finished / "result.json").read_text())
    for split in ("validation", "test"):
        eval_command([f"--run={finished}", f"--split={split}"])
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert [row[:3] for row in rows if row[0] == "LightGCN"] == [
            ["LightGCN", str(k), f"{result[split][f'recall@{k}']:.5f}"] for k in (5, 20)
        ]
        assert not [row for row in rows if row[0] == "MMSSL"]


def test_a_bare_resume_keeps_the_method_of_the_run(finished, tmp_path, capsys):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    before = read_records(run / "metrics.jsonl")
    train_command([f"--run={run}", "--resume", "--train.epochs=3"])
    assert "LightGCN" in capsys.readouterr().out
    records = read_records(run / "metrics.jsonl")
    assert records[:2] == before
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert read_config(run / "config.yaml").method == "lightgcn"


def test_a_resume_as_another_method_is_refused(finished, left, tmp_path):
    given = [f"--run={finished}", "--resume"]
    message = left(2, train_command, *given, "--method=mmssl")
    assert f"{finished} is a run of lightgcn, which cannot go on as one of mmssl" in message
    (tmp_path / "c.yaml").write_text("method: mmssl\n")
    message = left(2, train_command, *given, f"--config={tmp_path / 'c.yaml'}")
    assert "is a run of lightgcn, which cannot go on as one of mmssl" in message
    message = left(2, train_command, *given, "--model.dim=3")
    assert "there is no setting 'model.dim'; the nearest is 'lightgcn.dim'" in message
    message = left(2, train_command, *given, "--lightgcn.dim=16")
    assert "lightgcn.dim: 8 in the run, 16 now" in message


def test_runs_of_before_there_were_methods_are_of_the_default(left, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("preset: released\ndata: {format: synthetic}\n")
    message = left(2, train_command, f"--run={run}", "--resume", "--method=lightgcn")
    assert "is a run of mmssl, which cannot go on as one of lightgcn" in message
    assert "dataset.json is missing" in left(2, train_command, f"--run={run}", "--resume")


def test_exports_and_a_recommender_for_serving(finished, tmp_path, capsys):
    lists, vectors, served = (tmp_path / name for name in ("top.csv", "vectors.npz", "served"))
    eval_command(
        [
            *(f"--run={finished}", "--devices=1", f"--export={lists}", "--k=7", "--filter=none"),
            *(f"--export_embeddings={vectors}", f"--save={served}"),
        ]
    )
    out = capsys.readouterr().out
    assert f"{lists}: 420 rows, the 7 best items of each user (left out: none)" in out
    assert f"{vectors}: embeddings of 100 users and items" in out
    assert f"{served}: a recommender for Recommender.load" in out
    with np.load(vectors) as file:
        users, items = file["users"], file["items"]
    scores = users @ items.T
    with lists.open(newline="") as file:
        rows = list(csv.DictReader(file))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :7]
    assert [int(row["item"]) for row in rows] == best.reshape(-1).tolist()
    ids, found = Recommender.load(served).recommend([3, 50], 7, filter="none")
    assert ids.tolist() == best[[3, 50]].tolist()
    expected = np.take_along_axis(scores, best, 1)[[3, 50]]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    again = [f"--run={finished}", f"--save={served}"]
    with pytest.raises(SystemExit):
        eval_command(again)
    assert "is in use: name a new folder" in capsys.readouterr().err


def test_cold_items_of_a_method_without_an_inductive_part(settings, left, tmp_path):
    run = tmp_path / "run"
    train_command([*settings, "--data.cold_items=0.2", "--train.epochs=1", f"--run={run}"])
    message = left(2, eval_command, f"--run={run}", "--cold_items")
    assert "LightGCN makes no vectors of items known by features" in message


@pytest.mark.slow
def test_a_report_of_two_methods(finished, folder, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    other, page = tmp_path / "mmssl", tmp_path / "page.html"
    small = {
        "data.path": folder,
        "data.format": "mmrec",
        "model.dim": 8,
        "game.weight": 0.0,
        "sampling.batch_size": 48,
        "train.epochs": 1,
        "eval.ks": (5, 20),
        "parallel.devices": 1,
    }
    train_command([*flags(small), f"--run={other}"])
    report_command([str(finished), f"--out={page}"])
    alone = page.read_text()
    assert "Modality weights" not in alone
    assert "Cold items" not in alone
    assert "lightgcn.dim" in alone
    assert "critic.hidden" not in alone
    report_command([str(finished), str(other), f"--out={page}"])
    both = page.read_text()
    assert "lightgcn.dim" in both
    assert "model.dim" in both
    assert "Modality weights" in both
    capsys.readouterr()


def test_a_study_of_a_method_without_studies_of_its_own(settings, left, tmp_path, capsys):
    shown = left(0, study_command, "--method", "lightgcn", "--help")
    assert "--study {seeds,modalities,methods}" in shown
    assert "ablations" not in shown
    assert "--study {ablations,departures,seeds,modalities,methods}" in left(
        0, study_command, "--help"
    )
    message = left(2, study_command, *settings, "--study=ablations")
    assert "invalid choice: 'ablations' (choose from 'seeds', 'modalities', 'methods')" in message
    out = tmp_path / "study"
    study_command([*settings, "--train.epochs=1", "--seeds=[1, 2]", f"--out={out}"])
    assert sorted(path.name for path in (out / "base").iterdir()) == ["seed-1", "seed-2"]
    assert read_config(out / "base" / "seed-2" / "config.yaml").method == "lightgcn"
    assert "| base |" in (out / "table.md").read_text()
    capsys.readouterr()


def test_the_studies_of_a_method():
    assert list(study_texts("mmssl")) == ["ablations", "departures", "seeds", "modalities"]
    assert list(study_texts("lightgcn")) == ["seeds", "modalities"]
    assert all(text.endswith(".") for text in study_texts("mmssl").values())
    (only,) = study_variants("seeds", LightGCNConfig(), ())
    assert only.changes == {}
    with pytest.raises(
        ValueError, match="no study 'ablations' of lightgcn; there are seeds, modal"
    ):
        study_variants("ablations", LightGCNConfig(), ())
