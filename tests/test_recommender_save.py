"""A recommender saved and loaded: the same lists, from the folder alone; what cannot be read."""

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import Config, override
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.method import ItemWeights
from mmssl_jax.methods.lightgcn import LightGCNConfig
from mmssl_jax.recommend import NewItems, Recommender
from mmssl_jax.recommend.contents import FILES, VERSION, Contents, contents_of
from mmssl_jax.training.problem import load_problem, new_state
from tests.problems import partial_dataset, tiny_config

ROOT = Path(__file__).resolve().parents[1]
FILTERS = ("none", "train", "train_validation", "all")
BLOCK = 16
MMSSL, LIGHTGCN = "mmssl", "lightgcn"
Lists = dict[str, np.ndarray]


def with_text_ids(dataset: Dataset) -> Dataset:
    """Ids of several lengths, not all of ASCII."""
    return dataclasses.replace(
        dataset,
        user_ids=np.array([f"u{n}" for n in range(dataset.n_users)]),
        item_ids=np.array([f"{'é' * (n % 3)}item {n}" for n in range(dataset.n_items)]),
    )


def config_of(method: str) -> Config:
    changes = {"data.format": "synthetic", "data.cold_items": 0.2, "parallel.devices": 1}
    if method == MMSSL:
        return tiny_config(changes={"game.weight": 0.0, **changes})
    small = {"lightgcn.dim": 8, "sampling.batch_size": 48, "eval.ks": (5, 20)}
    return override(LightGCNConfig(), {**changes, **small})


def contents(method: str) -> Contents:
    """An untrained model, of items some of which lack modalities."""
    problem = load_problem(config_of(method), with_text_ids(partial_dataset()))
    return contents_of(problem, new_state(problem))


@pytest.fixture(scope="module", params=[MMSSL, LIGHTGCN])
def made(request) -> Recommender:
    return Recommender(contents(request.param), BLOCK)


@pytest.fixture(scope="module")
def mmssl() -> Recommender:
    return Recommender(contents(MMSSL), BLOCK)


@pytest.fixture(scope="module")
def lightgcn() -> Recommender:
    return Recommender(contents(LIGHTGCN), BLOCK)


@pytest.fixture(scope="module")
def saved(made, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "deep" / "served"
    made.save(folder)
    return folder


def features() -> dict[str, np.ndarray]:
    """Of three new items, one of which lacks a modality."""
    rng = np.random.default_rng(0)
    raw = {m: rng.normal(size=(3, 6)).astype(np.float32) for m in ("acoustic", "visual")}
    raw["visual"][1] = np.nan
    return raw


def everything(ask: Recommender) -> Lists:
    """The lists and vectors that a recommender gives, by name."""
    found: dict[str, Any] = {"user_ids": ask.user_ids, "item_ids": ask.item_ids}
    found |= {"user_vectors": ask.user_vectors, "item_vectors": ask.item_vectors}
    for name in FILTERS:
        found[f"recommend {name}"] = ask.recommend(ask.user_ids, 50, filter=name)
    some = [ask.item_ids[5], ask.item_ids[7], ask.item_ids[30]]
    found["candidates"] = ask.recommend(ask.user_ids[3:9], 3, items=some, exclude=some[:1])
    found["similar_items"] = ask.similar_items(ask.item_ids, 7)
    untrained = ask.untrained_items()
    found["untrained"] = np.asarray(untrained.ids)
    found |= {f"untrained {m}": x for m, x in untrained.features.items()}
    if ask.config.method == MMSSL:
        new = NewItems(["fresh", ask.item_ids[7], "one more"], features())
        lists = [[ask.item_ids[1]], ask.item_ids[2:30].tolist()]
        for name in FILTERS:
            found[f"recommend_for_items {name}"] = ask.recommend_for_items(lists, 7, filter=name)
        found["cold"] = ask.recommend(ask.user_ids, 50, cold=new)
        found["untrained ones"] = ask.recommend(ask.user_ids, 5, cold=untrained)
        found["recommend_cold"] = ask.recommend_cold(features(), 9)
        found["similar_to_cold"] = ask.similar_to_cold(features(), 9)
        found["item_vectors_from_features"] = ask.item_vectors_from_features(features())
        found["user_vectors_from_items"] = ask.user_vectors_from_items(lists)
    flat = {}
    for name, value in found.items():
        parts = dict(enumerate(value)) if isinstance(value, tuple) else {"": value}
        flat |= {f"{name} {part}": np.asarray(x) for part, x in parts.items()}
    return {name: x.astype(str) if x.dtype == object else x for name, x in flat.items()}


def assert_identical(actual: Lists, expected: Lists) -> None:
    assert actual.keys() == expected.keys()
    for name, one in expected.items():
        other = actual[name]
        assert (one.shape, one.dtype.kind) == (other.shape, other.dtype.kind), name
        np.testing.assert_array_equal(other, one, err_msg=name)


def test_a_loaded_recommender_gives_the_same_lists(made, saved):
    assert sorted(path.name for path in saved.iterdir()) == sorted(FILES)
    loaded = Recommender.load(saved, BLOCK)
    assert loaded.config == made.config
    expected = everything(made)
    assert len(expected["untrained "]) > 0
    assert_identical(everything(loaded), expected)


def test_what_was_loaded_is_saved_alike(saved, tmp_path):
    Recommender.load(saved, BLOCK).save(tmp_path / "again")
    for name in ("recommender.json", "config.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()
    with np.load(saved / "arrays.npz") as one, np.load(tmp_path / "again/arrays.npz") as other:
        assert_identical(dict(other), dict(one))


SERVE = """
import pickle, sys
import numpy as np
from pathlib import Path
from tests.test_recommender_save import BLOCK, everything
from mmssl_jax.recommend import Recommender
np.savez(sys.argv[2], **everything(Recommender.load(sys.argv[1], BLOCK)))
"""


def test_another_process_needs_no_dataset(made, saved, tmp_path):
    """From a place where there is nothing else, with a dataset's folder that is not there."""
    folder = Path(shutil.copytree(saved, tmp_path / "elsewhere" / "served"))
    settings = folder / "config.yaml"
    text = settings.read_text().replace("path: ''", f"path: {tmp_path / 'gone'}")
    settings.write_text(text.replace("format: synthetic", "format: mmrec"))
    assert "gone" in settings.read_text()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = tmp_path / "out.npz"
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(folder), str(out)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(out) as found:
        assert_identical(dict(found), everything(made))


@pytest.fixture
def place(lightgcn, tmp_path) -> Path:
    """A folder that a test may damage."""
    lightgcn.save(tmp_path / "served")
    return tmp_path / "served"


def refused(folder: Path) -> str:
    """The message of a folder that cannot be read; one, and of a few lines."""
    with pytest.raises(DatasetError) as error:
        Recommender.load(folder)
    assert str(folder) in str(error.value)
    assert len(str(error.value)) < 700
    return str(error.value)


def test_what_is_no_saved_recommender(tmp_path):
    assert "has no recommender.json, config.yaml, arrays.npz" in refused(tmp_path / "nowhere")
    (tmp_path / "config.yaml").write_text("method: lightgcn\n")  # as in a run's directory
    message = refused(tmp_path)
    assert "has no recommender.json, arrays.npz" in message
    assert "a run's directory is read by Recommender.from_run" in message


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing(place, name):
    (place / name).unlink()
    assert f"has no {name}: expected a folder that Recommender.save wrote" in refused(place)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 0.5, 0.999])
def test_a_file_that_was_cut_off(place, name, kept):
    content = (place / name).read_bytes()
    # Settings that end at a line's end are whole settings, so these are cut inside a word.
    content = b"optim: {lr: 0.001" if name == "config.yaml" and kept else content
    (place / name).write_bytes(content[: int(len(content) * kept)])
    assert "is damaged" in refused(place)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"\x00\xff" * 100, b"[]", b"3", b'"text"'])
def test_a_file_of_another_kind(place, name, content):
    (place / name).write_bytes(content)
    assert "is damaged" in refused(place)


def test_a_changed_number_is_noticed(place):
    whole = (place / "arrays.npz").read_bytes()
    with np.load(place / "arrays.npz") as file:
        numbers = file["scorer/items"].tobytes()
    start = whole.index(numbers)
    for at in range(start, start + len(numbers), len(numbers) // 20):
        changed = bytearray(whole)
        changed[at] ^= 1
        (place / "arrays.npz").write_bytes(bytes(changed))
        assert "is damaged (BadZipFile" in refused(place)


def change_record(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / "recommender.json").read_text()) | changes
    (folder / "recommender.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scorer": "neighbours"}, "is damaged (KeyError"),
        ({"user_ids": ["u1"]}, "ids of 1 users and 40 items, but vectors or weights of 60 and 40"),
        ({"item_ids": []}, "ids of 60 users and 0 items"),
        ({"user_ids": ["u1"] * 60}, "an id stands twice"),
        ({"widths": [3]}, "widths are [3]"),
        ({"widths": {"visual": "3"}}, "widths are "),
        ({"version": "one"}, "is damaged ('version' is 'one'"),
    ],
)
def test_a_record_that_does_not_fit(place, changes, says):
    change_record(place, **changes)
    assert says in refused(place)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("seen/train", np.array([[0, 40]]), "seen pairs of train are of other users or items"),
        ("seen/train", np.array([[-1, 0]]), "seen pairs of train are of other users or items"),
        ("seen/rest", np.ones((2, 2)), "seen pairs are float64 of shape (2, 2)"),
        ("seen/rest", np.arange(3), "seen pairs are int64 of shape (3,)"),
        ("seen/validation", None, "is damaged (KeyError"),
        ("scorer/users", np.ones((60, 1)), "expected one width"),
    ],
)
def test_arrays_that_do_not_fit(place, name, values, says):
    with np.load(place / "arrays.npz") as file:
        arrays = dict(file) | {name: values}
    np.savez(place / "arrays.npz", **{key: x for key, x in arrays.items() if x is not None})
    assert says in refused(place)


def test_a_later_version_is_named(place):
    change_record(place, version=VERSION + 1)
    message = refused(place)
    assert f"format {VERSION + 1}, this one reads up to {VERSION}" in message
    assert "damaged" not in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("method: lightgnc\n", "there is no method 'lightgnc'; the nearest is 'lightgcn'"),
        ("method: lightgcn\noptim: {lrr: 1}\n", "the nearest is 'optim.lr'"),
        ("method: lightgcn\noptim: {lr: 0}\n", "optim.lr"),
    ],
)
def test_settings_of_another_package(place, text, says):
    (place / "config.yaml").write_text(text)
    message = refused(place)
    assert "is damaged (ConfigError" in message
    assert says in message


def test_arrays_of_another_method(place, mmssl, tmp_path):
    mmssl.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "config.yaml", place)
    served = Recommender.load(place)  # an MMSSL without what new users and items are made from
    with pytest.raises(DatasetError, match="MMSSL makes no vectors of items known by features"):
        served.recommend_cold(features())


def test_a_folder_in_use_is_left_alone(lightgcn, tmp_path):
    used, file, empty = tmp_path / "used", tmp_path / "file", tmp_path / "empty"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    file.write_text("mine")
    for taken in (used, file):
        with pytest.raises(DatasetError, match=f"{taken} is in use: name a new folder"):
            lightgcn.save(taken)
    assert sorted(tmp_path.iterdir()) == [file, used]
    assert (used / "notes.txt").read_text() == file.read_text() == "mine"
    empty.mkdir()
    lightgcn.save(empty)
    before = {path.name: path.read_bytes() for path in empty.iterdir()}
    with pytest.raises(DatasetError, match="is in use"):
        lightgcn.save(empty)
    assert {path.name: path.read_bytes() for path in empty.iterdir()} == before


def test_a_folder_appears_only_when_it_is_whole(lightgcn, tmp_path, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", fail)
        with pytest.raises(OSError, match="no space"):
            lightgcn.save(tmp_path / "served")
    assert not (tmp_path / "served").exists()
    lightgcn.save(tmp_path / "served")  # over what the failure left
    assert [path.name for path in tmp_path.iterdir()] == ["served"]
    Recommender.load(tmp_path / "served")


class Harmful:
    """Writes a file where it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_no_pickle_is_loaded(place, tmp_path, monkeypatch):
    touched = tmp_path / "touched"
    pickle.loads(pickle.dumps(Harmful(touched)))
    assert touched.exists()  # so it would be seen
    touched.unlink()

    with np.load(place / "arrays.npz") as file:
        arrays = dict(file)
    arrays["scorer/users"] = np.array([Harmful(touched)], object)
    np.savez(place / "arrays.npz", **arrays)
    assert "is damaged" in refused(place)
    (place / "arrays.npz").write_bytes(pickle.dumps(Harmful(touched)))
    assert "is damaged" in refused(place)
    assert not touched.exists()


def test_what_is_saved_is_read_without_pickle(saved, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle is loaded")

    with monkeypatch.context() as patch:
        for name in ("load", "loads", "Unpickler"):
            patch.setattr(pickle, name, fail)
        Recommender.load(saved)
    for name in FILES:
        assert b"cnumpy" not in (saved / name).read_bytes()


NOT_FOR_LIGHTGCN = {
    "item_vectors_from_features": "LightGCN makes no vectors of items known by features",
    "recommend_cold": "LightGCN makes no vectors of items known by features",
    "similar_to_cold": "LightGCN makes no vectors of items known by features",
}


@pytest.mark.parametrize("loaded", [False, True])
def test_what_a_method_without_an_inductive_part_refuses(lightgcn, tmp_path, loaded):
    ask = lightgcn
    if loaded:
        lightgcn.save(tmp_path / "served")
        ask = Recommender.load(tmp_path / "served", BLOCK)
    for name, says in NOT_FOR_LIGHTGCN.items():
        with pytest.raises(DatasetError, match=says):
            getattr(ask, name)(features())
    with pytest.raises(DatasetError, match="LightGCN makes no vectors of items known by features"):
        ask.recommend(["u1"], cold=NewItems(["a", "b", "c"], features()))
    with pytest.raises(DatasetError, match="LightGCN makes no vectors of users known by items"):
        ask.recommend_for_items([["item 3"]])
    with pytest.raises(DatasetError, match="LightGCN makes no vectors of users known by items"):
        ask.user_vectors_from_items([["item 3"]])


@pytest.mark.parametrize("full", [False, True])
def test_item_weights_are_saved_too(lightgcn, tmp_path, full):
    """A scorer of the other kind, with whole numbers as ids and nothing that is untrained."""
    rng = np.random.default_rng(0)
    n_items, n_users = len(lightgcn.item_ids), len(lightgcn.user_ids)
    neighbours = np.stack([rng.permutation(n_items)[:5] for _ in range(n_items)])
    scorer = ItemWeights(
        jnp.asarray(neighbours, jnp.int32), jnp.asarray(rng.normal(size=neighbours.shape))
    )
    if full:
        scorer = ItemWeights(None, jnp.asarray(rng.normal(size=(n_items, n_items))))
    ask = Recommender(
        lightgcn.contents._replace(
            scorer=scorer,
            user_ids=np.arange(n_users) + 7,
            item_ids=np.arange(n_items) * 10,
            untrained=NewItems(np.zeros(0, np.int64), {}),
        ),
        BLOCK,
    )
    ask.save(tmp_path / "served")
    loaded = Recommender.load(tmp_path / "served", BLOCK)
    assert isinstance(loaded.scorer, ItemWeights)
    assert (loaded.scorer.neighbours is None) == full
    for name in FILTERS:
        for one, other in zip(
            ask.recommend(ask.user_ids, 50, filter=name),
            loaded.recommend(ask.user_ids, 50, filter=name),
            strict=True,
        ):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    assert list(loaded.untrained_items().ids) == []
    with np.load(tmp_path / "served" / "arrays.npz") as file:
        arrays = dict(file)
    arrays["scorer/weights"] = arrays["scorer/weights"][:, :4]
    np.savez(tmp_path / "served" / "arrays.npz", **arrays)
    assert "damaged (ValueError: weights of shape (40, 4), expected (40," in refused(
        tmp_path / "served"
    )
