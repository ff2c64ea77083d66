"""The page about runs: complete, well-formed, escaped, also for runs that have not ended."""

import base64
import dataclasses
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mmssl_jax.checkpoint import CheckpointError
from mmssl_jax.cli.report import report_command
from mmssl_jax.config import ConfigError, override
from mmssl_jax.records.log import read_records
from mmssl_jax.report.html import definitions, item_list, table, text
from mmssl_jax.report.page import render
from mmssl_jax.report.plots import Series, line_panel, linear_range, require_matplotlib
from mmssl_jax.report.run import MODEL, Run, analyse, load_run, load_runs
from mmssl_jax.report.sections import by_data
from mmssl_jax.training import restore
from mmssl_jax.training.begin import dataset_record
from mmssl_jax.training.loop import fit
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.restore import restore_run
from tests.problems import partial_dataset, tiny_config, tiny_dataset, write_folder

pytestmark = pytest.mark.slow  # trains or renders for minutes

pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

ROOT = Path(__file__).resolve().parents[1]
VOID = {"meta", "img", "br", "link"}
SECTIONS = (
    "Result", "Training", "Lists by length", "Users by activity", "Items by popularity",
    "Coverage and popularity bias", "Modality weights", "Item embeddings",
    "Sample recommendations", "Settings", "Environment",
)  # fmt: skip
HOSTILE = '<script>alert("1")</script>'


class Page(HTMLParser):
    """A page taken apart; it fails on tags that do not match."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        targets = {a["href"] for _, a in self.tags if "href" in a}
        assert targets == {f"#{name}" for name in ids}

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    @property
    def images(self) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == "img"]

    @property
    def text(self) -> str:
        return "\n".join(self.words)

    def row(self, name: str) -> list[str]:
        """The cells of the first table row of that name."""
        words = [word for word in self.words if word.strip()]
        return words[words.index(name) + 1 :]


def check_images(page: Page) -> None:
    for image in page.images:
        head, data = image["src"].split(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
        assert len(image["alt"]) > 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tiny_dataset(), tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, folder):
    run = tmp_path_factory.mktemp("runs") / "run"
    changes = {"data.format": "mmrec", "data.path": str(folder), "train.epochs": 2}
    fit(tiny_config(changes=changes), run, quiet=True)
    return run


@pytest.fixture(scope="module")
def restored(finished):
    return restore_run(finished, devices=1)


@pytest.fixture(scope="module")
def loaded(finished, restored):
    with pytest.MonkeyPatch.context() as patch:  # what is restored is shared with other tests
        patch.setattr("mmssl_jax.report.run.restore_run", lambda *_, **__: restored)
        return load_run(finished, "run")


@pytest.fixture(scope="module")
def page(loaded):
    return Page(render([loaded]))


def copy_of(run: Path, place: Path) -> Path:
    return Path(shutil.copytree(run, place / "copy"))


def test_the_page_has_every_part(page):
    assert tuple(page.headings) == SECTIONS
    check_images(page)
    alts = "\n".join(image["alt"] for image in page.images)
    for part in (
        "Validation recall@20", "bpr", "contrastive_visual", "Critic scores", "gradient_penalty",
        "test recall by list length", "recall@20 by users' activity", "held-out items in the top",
        "modality weights of users", "modality weights of items", "feature: acoustic",
        "feature: visual", "final embedding", "Gini",
    ):  # fmt: skip
        assert part in alts, part


def test_cold_items_have_a_section(loaded):
    assert loaded.analysis.cold == {}
    row = {"recall@20": 0.25, "ndcg@20": 0.125, "hit_ratio@20": 0.5}
    cold = {"among cold items": {"MMSSL": row}, "among all items": {"random": row}}
    held_out = loaded._replace(label="cold", analysis=loaded.analysis._replace(cold=cold))
    both = Page(render([loaded, held_out]))
    assert "Cold items" in both.headings
    words = " ".join(both.words)
    assert "MMSSL, among cold items" in words
    assert "0.12500" in words
    assert "This run held no items out." in words


def test_a_run_with_cold_items_is_analysed(folder):
    changes = {"data.format": "mmrec", "data.path": str(folder), "data.cold_items": 0.2}
    problem = load_problem(tiny_config(changes=changes))
    cold = analyse(problem, new_state(problem)).cold
    assert set(cold) == {"among cold items", "among all items"}
    assert 0 <= cold["among cold items"]["MMSSL"]["recall@20"] <= 1


def test_the_page_stands_alone(page):
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png"))
        assert not [name for name in attributes if name.startswith("on")]


def test_tables_have_headers(page):
    scopes = [attributes.get("scope") for tag, attributes in page.tags if tag == "th"]
    assert {"col", "row"} == set(scopes)
    tables, captions = ([t for t, _ in page.tags].count(tag) for tag in ("table", "caption"))
    assert tables == captions > 4


def test_the_numbers_are_those_of_the_run(loaded, finished, page):
    result = json.loads((finished / "result.json").read_text())
    records = read_records(finished / "metrics.jsonl")
    assert loaded.analysis.step == result["best_step"]
    assert loaded.analysis.metrics[MODEL] == pytest.approx(result["test"], rel=1e-5, abs=1e-7)
    for name, metrics in result["baselines"].items():
        assert loaded.analysis.metrics[name] == pytest.approx(metrics, rel=1e-5, abs=1e-7)
    assert page.row("test recall@20")[0] == f"{result['test']['recall@20']:.4f}"
    assert page.row("validation ndcg@20")[0] == f"{result['validation']['ndcg@20']:.4f}"
    assert page.row("best epoch")[0] == str(result["best_epoch"])
    assert page.row("epochs")[0] == str(len(records)) == "2"
    assert page.row("state")[0] == "finished"


def test_samples_are_marked(loaded):
    samples = loaded.analysis.samples
    for sample in samples:
        assert [hit for _, hit in sample.listed] == [
            item in sample.held_out for item, _ in sample.listed
        ]
        assert not set(sample.train) & {item for item, _ in sample.listed}
    assert len(samples) == len(loaded.analysis.activity[MODEL].label) > 1


def test_a_run_that_has_not_ended_and_whose_data_has_moved(finished, folder, tmp_path, capsys):
    run, moved = copy_of(finished, tmp_path), Path(shutil.copytree(folder, tmp_path / "moved"))
    config, log, out = run / "config.yaml", run / "metrics.jsonl", tmp_path / "new" / "page.html"
    config.write_text(config.read_text().replace(str(folder), str(tmp_path / "gone")))
    log.write_text(log.read_text() + '{"epoch": 2, "st')
    (run / "result.json").unlink()
    (run / "environment.json").unlink()
    with pytest.raises(SystemExit) as leaving:
        report_command([str(run), f"--out={out}"])
    assert leaving.value.code == 2
    assert "gone" in capsys.readouterr().err
    assert not out.exists()
    report_command([str(run), f"--out={out}", f"--data_path={moved}"])
    assert f"report: {out}" in capsys.readouterr().out
    page = Page(out.read_text())
    assert tuple(page.headings) == SECTIONS
    assert page.row("state")[0] == "running or cut short"


def test_a_run_before_its_first_checkpoint(finished, restored, tmp_path, monkeypatch):
    run = copy_of(finished, tmp_path)
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").unlink()
    (run / "result.json").unlink()
    monkeypatch.setattr(restore, "new_state", lambda problem: restored[1])
    page = Page(render(load_runs([run])))
    assert page.headings == ["Result", "Training", "Settings", "Environment"]
    assert "nothing to analyse yet: no checkpoints" in page.text
    assert "No epoch has ended yet." in page.text
    assert not page.images


def test_a_checkpoint_that_is_replaced_while_it_is_read(finished, restored, tmp_path, monkeypatch):
    run, (_, state) = copy_of(finished, tmp_path), restored
    real, (old,) = restore.restore_tree, (run / "checkpoints" / "best").glob("[0-9]*")

    def replaced(checkpoints, like):
        if old.exists():
            old.rename(old.with_name(str(int(old.name) + 100)))
        return real(checkpoints, like)

    monkeypatch.setattr(restore, "restore_tree", replaced)
    found = restore.restore_newest(run, "best", state)
    assert not old.exists()
    assert found.step == state.step


def test_a_checkpoint_that_does_not_fit_is_refused(finished, restored):
    _, state = restored
    with pytest.raises(CheckpointError, match="does not fit"):
        restore.restore_newest(
            finished, "best", state._replace(method=state.method._replace(generator={}))
        )


def test_two_runs_side_by_side(loaded):
    other = loaded._replace(
        number=1, label="other", config=override(loaded.config, {"optim.lr": 0.125})
    )
    page = Page(render([loaded, other]))
    assert tuple(page.headings) == SECTIONS
    check_images(page)
    assert page.row("state")[:2] == ["finished", "finished"]
    assert page.row("optim.lr")[:4] == ["0.01", "0.125", "0.00055", "differs between the runs"]
    assert page.row("model.dim")[:4] == ["8", "8", "64", "not the default"]
    recall = [i["alt"] for i in page.images if "test recall by" in i["alt"]]
    assert len(recall) == 1
    assert "run, K 5" in recall[0]
    assert "other, K 5" in recall[0]


def test_runs_on_different_data_are_not_mixed(loaded):
    same = loaded._replace(number=1, label="same")
    other = loaded._replace(label="other", dataset=loaded.dataset | {"fingerprint": "another"})
    longer = loaded._replace(label="longer", analysis=loaded.analysis._replace(ks=[5, 20, 50]))
    groups = []
    by_data(
        [loaded, other, same, longer],
        lambda group: groups.append([run.label for run in group]) or "",
    )
    assert groups == [["run", "same"], ["other"], ["longer"]]


def test_runs_of_equal_names_are_told_apart(loaded, monkeypatch):
    def named(path, label, data_path, number) -> Run:
        return loaded._replace(label=label, number=number)

    monkeypatch.setattr("mmssl_jax.report.run.load_run", named)
    runs = load_runs(["a/run", "b/run", "c/other"])
    assert [(r.label, r.number) for r in runs] == [("a/run", 0), ("b/run", 1), ("other", 2)]


def untrained(dataset, label: str, **changes) -> Run:
    """A run of the given data as it is before its first step, with a log of one epoch."""
    config = tiny_config(changes=changes)
    problem = load_problem(config, dataset)
    return Run(
        number=0,
        label=label,
        config=config,
        dataset=dataset_record(dataset),
        environment={"packages": {"jax": "1"}},
        records=[{"epoch": 0, "step": 0, "seconds": 1.0, "bpr": 0.5, "validation/recall@20": 0.1,
                  "validation/ndcg@20": 0.1}],
        finished=False,
        curves=problem.method.CURVES,
        analysis=analyse(problem, new_state(problem)),
        why_not="",
    )  # fmt: skip


def with_features(names: list[str]):
    data, rng = tiny_dataset(), np.random.default_rng(0)
    rows = {name: rng.normal(size=(data.n_items, 3)).astype(np.float32) for name in names}
    return dataclasses.replace(data, features=dict(sorted(rows.items())))


@pytest.mark.parametrize("names", [["text"], ["a", "b$x$", HOSTILE, "d"]])
def test_any_modalities_and_hostile_names(names):
    data = with_features(names)
    data = dataclasses.replace(
        data,
        name=HOSTILE,
        user_ids=np.array([f"{HOSTILE}{u}" for u in range(data.n_users)]),
        item_ids=np.array([f"{HOSTILE}'\"&{i}" for i in range(data.n_items)]),
    )
    written = render([untrained(data, f"_{HOSTILE}")])
    page = Page(written)
    assert tuple(page.headings) == SECTIONS
    assert "<script" not in written
    assert f"{HOSTILE}'\"&1" in page.text  # what a reader sees
    assert f"User {HOSTILE}" in page.text
    check_images(page)
    alts = "\n".join(image["alt"] for image in page.images)
    for name in names:
        assert f"feature: {name}" in alts
    assert ("its weight is 1 everywhere" in page.text) == (len(names) == 1)
    assert ("weights of users" in alts) == (len(names) > 1)


def test_how_many_items_lack_a_modality_is_said():
    data = partial_dataset()
    page = Page(render([untrained(data, "partial")]))
    for name in data.modalities:
        lacking = 1 - data.presence[name].mean()
        assert 0.2 < lacking < 0.6
        width = data.features[name].shape[1]
        assert f"{name} ({width}, {lacking:.1%} of the items lack it)" in page.text


def test_data_without_a_test_split_is_ranked_on_validation(restored, finished):
    problem, state = restored
    data = dataclasses.replace(problem.dataset, test=np.zeros((0, 2), np.int32))
    analysis = analyse(problem._replace(dataset=data), state)
    result = json.loads((finished / "result.json").read_text())
    assert analysis.split == "validation"
    assert analysis.metrics[MODEL] == pytest.approx(result["validation"], rel=1e-5, abs=1e-7)


def test_pieces_escape_what_they_are_given():
    pieces = [
        table(HOSTILE, [HOSTILE, HOSTILE], [[HOSTILE, HOSTILE]]),
        definitions([(HOSTILE, text(HOSTILE))]),
        item_list([(HOSTILE, True), (HOSTILE, False)], HOSTILE),
    ]
    for piece in pieces:
        assert "<script" not in piece
        assert "&lt;script&gt;" in piece


def test_names_in_pictures_are_not_formulas():
    """A dollar sign or a leading underscore means something to Matplotlib."""
    series = [Series("_a$^$", [0, 1], [0, 1]), Series("$\\b{$", [0, 1], [1, 0])]
    assert line_panel("$\\frac$", series, "$x", "two lines").png.startswith(b"\x89PNG")


def test_an_axis_is_logarithmic_beyond_the_usual_values_of_a_curve_that_starts_far_above():
    falling = Series("loss", [0, 1, 2, 3], [1e5, -3.0, 2.0, 1.0])
    assert linear_range([falling]) == 2.5
    assert linear_range([Series("level", [0, 1, 2], [50.0, 1.0, 1.0])]) is None
    assert linear_range([Series("nothing", [0, 1], [0.0, 0.0])]) is None
    assert line_panel("loss", [falling], "epoch", "a loss").png.startswith(b"\x89PNG")


@pytest.mark.parametrize("out", ["page.html", "."])
def test_what_is_no_run_or_no_file_is_refused(tmp_path, out, capsys):
    with pytest.raises(SystemExit) as leaving:
        report_command([str(tmp_path), f"--out={tmp_path / out}"])
    assert leaving.value.code == 2
    wanted = "is not the directory of a run" if out == "page.html" else "is a directory"
    assert wanted in capsys.readouterr().err


def test_a_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'mmssl_jax\[report\]'"):
        require_matplotlib()


def test_the_commands_start_without_the_extras():
    script = (
        "import sys, mmssl_jax.cli.train, mmssl_jax.cli.eval, mmssl_jax.cli.report; "
        "import mmssl_jax.cli.study, mmssl_jax.cli.tune, mmssl_jax.cli.prepare; "
        "print([m for m in ('matplotlib', 'tensorboardX') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
