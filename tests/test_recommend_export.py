"""Files and tables of `eval.py`, and docs/recommend.md as it stands."""

import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from mmssl_jax.cli.eval import eval_command
from mmssl_jax.cli.train import train_command
from mmssl_jax.data import read_dataset
from mmssl_jax.recommend import Recommender
from mmssl_jax.recommend.export import export_lists
from tests.problems import CHANGES, flags

pytestmark = pytest.mark.slow  # trains or renders for minutes

ROOT = Path(__file__).resolve().parents[1]
DOC = (ROOT / "docs" / "recommend.md").read_text()
SMALL = {
    **{key: value for key, value in CHANGES.items() if key not in ("data.format", "eval.ks")},
    "train.epochs": 1,
    "game.weight": 0.0,
    "sampling.batch_size": 1024,
    "structure.block_users": 512,
    "eval.block_users": 512,
}


SHOP = "## From a text and an image to a list"  # the section on another run than the others
SECTIONS = re.split(r"^(?=## )", DOC, flags=re.MULTILINE)
OF_COLD = "".join(section for section in SECTIONS if not section.startswith(SHOP))
(OF_SHOP,) = (section for section in SECTIONS if section.startswith(SHOP))


def blocks_of(language: str, text: str = OF_COLD) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def lines_for(script: str, text: str = OF_COLD) -> list[list[str]]:
    lines = "".join(blocks_of("bash", text)).splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith(f"python {script}")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the docs' run, trained by its command at a small size."""
    place = tmp_path_factory.mktemp("docs")
    (place / "configs").symlink_to(ROOT / "configs")
    (training,) = lines_for("train.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        train_command([*training, *flags(SMALL)])
    return place


@pytest.fixture
def there(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="module")
def recommender(place):
    return Recommender.from_run(place / "runs" / "cold", devices=1)


@pytest.fixture
def refused(capsys):
    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit) as leaving:
            eval_command(list(arguments))
        assert leaving.value.code == 2
        return capsys.readouterr().err

    return call


def test_the_docs_run(there, capsys):
    names: dict = {}
    for block in blocks_of("python"):
        exec(block, names)
    assert names["ids"].shape == (2, 10)
    assert names["vectors"].shape == (2, 8)
    assert names["user_ids"].shape == names["item_ids"].shape == (2, 10)
    for arguments in lines_for("eval.py"):
        eval_command(arguments)
    out = capsys.readouterr().out
    assert "top.csv: 24,000 rows, the 20 best items of each user" in out
    assert "to_send.csv: 24,000 rows, the 20 best items of each user" in out
    assert "embeddings.npz: embeddings of 2,000 users and items" in out
    for heading in ("cold items among themselves", "cold items among all items"):
        table = out.split(heading)[1]
        assert re.search(r"^MMSSL +20 +0\.\d{5}", table, re.MULTILINE)
        assert re.search(r"^random +20 +0\.\d{5}", table, re.MULTILINE)
    assert re.search(r"^content +20 +0\.\d{5}", out, re.MULTILINE)


@pytest.mark.extras
def test_a_new_item_from_its_text_and_image(tmp_path, monkeypatch):
    pytest.importorskip("polars", reason="needs the extra `tables`")
    pytest.importorskip("PIL", reason="needs the extra `encoders`")
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    from examples.make_shop import make_shop
    from mmssl_jax.cli.prepare import main

    make_shop(Path("shop"))
    lines = (ROOT / "README.md").read_text().splitlines()
    (preparing,) = (line for line in lines if line.startswith("python -m mmssl_jax.prepare "))
    main(shlex.split(preparing)[3:])
    (training,) = lines_for("train.py", OF_SHOP)
    small = {key: value for key, value in SMALL.items() if key != "sampling.batch_size"}
    train_command([*training, *flags(small)])
    names: dict = {}
    (block,) = blocks_of("python", OF_SHOP)
    exec(block, names)
    # The dataset's own items, encoded anew, have the features that prepare wrote.
    dataset = read_dataset(names["recommender"].config.data.path)
    item = int(np.flatnonzero(dataset.item_ids == "P0003")[0])
    np.testing.assert_allclose(names["image"][0], dataset.features["image"][item], rtol=1e-6)
    assert {m: x.shape[1] for m, x in dataset.features.items()} == {"image": 48, "text": 64}
    assert names["ids"].shape == (2, 10)
    assert set(names["first"].ravel()) <= {"oolong", "rake"}
    assert names["buyers"].shape == (2, 10)


def test_the_csv_holds_the_lists(there, recommender):
    eval_command(["--run=runs/cold", "--export=lists.csv", "--k=3", "--devices=1"])
    with open("lists.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    ids, scores = recommender.recommend(recommender.user_ids, 3)
    assert [int(row["user"]) for row in rows] == np.repeat(np.arange(len(ids)), 3).tolist()
    assert [int(row["rank"]) for row in rows] == [1, 2, 3] * len(ids)
    assert [int(row["item"]) for row in rows] == ids.reshape(-1).tolist()
    np.testing.assert_allclose([float(row["score"]) for row in rows], scores.reshape(-1), rtol=1e-5)


def test_the_npz_holds_the_embeddings(there, recommender):
    eval_command(["--run=runs/cold", "--export-embeddings=vectors.npz", "--devices=1"])
    with np.load("vectors.npz") as file:
        np.testing.assert_array_equal(file["user_ids"], recommender.user_ids)
        np.testing.assert_array_equal(file["item_ids"], recommender.item_ids)
        np.testing.assert_allclose(file["users"], recommender.user_vectors, rtol=1e-6)
        np.testing.assert_allclose(file["items"], recommender.item_vectors, rtol=1e-6)


def test_an_export_appears_only_when_it_is_whole(recommender, tmp_path, monkeypatch):
    file = tmp_path / "lists.csv"
    file.write_text("of yesterday")
    whole, calls = recommender.recommend, []

    def stopped(*asked):
        calls.append(asked)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*asked)

    monkeypatch.setattr(recommender, "recommend", stopped)
    with pytest.raises(KeyboardInterrupt):
        export_lists(recommender, file, k=2, users=2)
    assert file.read_text() == "of yesterday"


def test_what_cannot_be_exported(there, refused):
    run = "--run=runs/cold"
    assert "ends in '.txt'" in refused(run, "--export=top.txt")
    assert "there is no folder" in refused(run, "--export=nowhere/top.csv")
    assert "ends in '.csv'" in refused(run, "--export_embeddings=vectors.csv")
    assert "k" in refused(run, "--export=top.csv", "--k=0")


@pytest.mark.extras
def test_parquet(there, recommender):
    polars = pytest.importorskip("polars", reason="Parquet files need polars")
    eval_command(
        [
            *("--run=runs/cold", "--devices=1", "--k=3"),
            *("--export=lists.parquet", "--export_embeddings=vectors.parquet"),
        ]
    )
    table = polars.read_parquet("lists.parquet")
    ids, scores = recommender.recommend(recommender.user_ids, 3)
    assert table.columns == ["user", "rank", "item", "score"]
    assert table["item"].to_list() == ids.reshape(-1).tolist()
    np.testing.assert_allclose(table["score"].to_numpy(), scores.reshape(-1), rtol=1e-5)
    vectors = polars.read_parquet("vectors.parquet")
    assert vectors["kind"].to_list() == ["user"] * 1200 + ["item"] * 800
    items = vectors.filter(polars.col("kind") == "item")
    assert items["id"].to_list() == [str(raw) for raw in recommender.item_ids]
    np.testing.assert_allclose(
        np.stack(items["vector"].to_list()), recommender.item_vectors, rtol=1e-6
    )


@pytest.mark.extras
def test_the_approximate_index(there, recommender, capsys, monkeypatch):
    pytest.importorskip("usearch", reason="examples/ann.py needs usearch")
    monkeypatch.syspath_prepend(str(ROOT))
    from examples import ann
    from mmssl_jax.recommend.export import export_embeddings

    export_embeddings(recommender, Path("embeddings.npz"))
    users, items = np.asarray(recommender.user_vectors), np.asarray(recommender.item_vectors)
    exact = ann.search_exactly(items, users, 20)
    best = np.argsort(-(users @ items.T), axis=1)[:, :20]
    assert ann.recall(exact, best) > 0.999  # but for equal scores
    assert ann.recall(np.full_like(best, -1), best) == 0
    found = ann.search(ann.build_index(items, 512), users, 20)
    assert ann.recall(found, best) > 0.9
    (arguments,) = lines_for("examples/ann.py")
    ann.main(arguments)
    shown = re.search(r"recall@20 against exact search: (\d\.\d{4})", capsys.readouterr().out)
    assert float(shown[1]) > 0.9
