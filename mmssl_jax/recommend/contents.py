"""What a recommender is made of: taken from a trained run, written to a folder, read from one.

A folder holds `recommender.json` (version, ids, widths of the raw features), `config.yaml` (the
run's settings) and `arrays.npz` (vectors or weights, seen pairs, and what vectors of new users and
items are made from). It serves without the dataset, its graphs, or a forward pass.
"""

import json
import math
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mmssl_jax.compilation import compiler_options
from mmssl_jax.config import Config
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.files import check_output_folder
from mmssl_jax.messages import clipped, shown
from mmssl_jax.method import ItemWeights, Knowledge, Scorer, Vectors
from mmssl_jax.methods import METHODS
from mmssl_jax.parallel import in_float32, replicate
from mmssl_jax.recommend.catalogue import NewItems
from mmssl_jax.recommend.features import features_of, has_any
from mmssl_jax.records.log import write_text
from mmssl_jax.records.read import read_json
from mmssl_jax.run_config import dump_config, read_config
from mmssl_jax.training.problem import Problem, TrainState
from mmssl_jax.training.programs import compile_embedding

HEADER_2 = np.lib.format.read_array_header_2_0
VERSION = 2  # 2: weights between items may lack neighbours
FILES = ("recommender.json", "config.yaml", "arrays.npz")
# What a file that was cut off or changed makes JSON, NumPy and the settings' parser raise.
DAMAGES = (
    AttributeError,
    EOFError,
    KeyError,
    NotImplementedError,
    MemoryError,
    OSError,
    OverflowError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
AGAIN = "a recommender's list of ids: save the recommender again"
MOST = 2**32  # bytes of ids, which are all of the record that grows
SEEN = ("train", "validation", "rest")
SCORERS: dict[str, Callable[..., Scorer]] = {"vectors": Vectors, "item_weights": ItemWeights}


class Contents(NamedTuple):
    """Everything that lists are made from.

    seen: (user, item) pairs of "train", of "validation", and of the "rest": test pairs and those
    with cold items. widths: {modality: width of its raw features}. knowledge: what vectors of new
    users and items are made from, None for a method that makes none. untrained: the items without a
    training interaction that have features.
    """

    config: Config
    user_ids: np.ndarray
    item_ids: np.ndarray
    scorer: Scorer
    seen: dict[str, np.ndarray]
    widths: dict[str, int]
    knowledge: Knowledge | None
    untrained: NewItems


def contents_of(problem: Problem, state: TrainState) -> Contents:
    """Runs a restored model once; the arrays lie on the first of the problem's devices."""
    dataset, method, only = problem.dataset, problem.method, problem.devices[:1]
    knowledge = None
    if method.INDUCTIVE is not None:
        learn = method.INDUCTIVE.learn
        options = compiler_options(only[0].platform)
        compiled = jax.jit(
            in_float32(lambda state, inputs: learn(method, state, inputs)),
            compiler_options=options,
        )
        knowledge = compiled(*replicate((state.method, problem.inputs), only))
    degree = np.bincount(dataset.train[:, 1], minlength=dataset.n_items)
    untrained = np.flatnonzero((degree == 0) & has_any(dataset))
    return Contents(
        config=problem.config,
        user_ids=dataset.user_ids,
        item_ids=dataset.item_ids,
        scorer=replicate(compile_embedding(problem)(state), only),
        seen={
            "train": dataset.train,
            "validation": dataset.validation,
            "rest": np.concatenate([dataset.test, problem.cold.interactions]),
        },
        widths={m: x.shape[1] for m, x in dataset.features.items()},
        knowledge=knowledge,
        untrained=NewItems(dataset.item_ids[untrained], features_of(dataset, untrained)),
    )


def check_new_folder(folder: Path) -> None:
    """Raises DatasetError where something is in a new folder's place."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"{folder} is in use: name a new folder for the recommender")


def write_contents(contents: Contents, folder: Path) -> None:
    """Writes a new folder, which appears only when it is whole.

    Raises DatasetError where something is in its place, OSError where it cannot be written.
    """
    check_new_folder(folder)
    check_output_folder(folder)
    kind = next(name for name, scorer in SCORERS.items() if type(contents.scorer) is scorer)
    knowledge = {} if contents.knowledge is None else contents.knowledge._asdict()
    arrays = {
        # What a scorer leaves out is no array.
        "scorer": {name: x for name, x in contents.scorer._asdict().items() if x is not None},
        "seen": contents.seen,
        "knowledge": knowledge,
        "untrained": dict(contents.untrained.features),
    }
    record = {
        "version": VERSION,
        "scorer": kind,
        "user_ids": contents.user_ids.tolist(),
        "item_ids": contents.item_ids.tolist(),
        "untrained": np.asarray(contents.untrained.ids).tolist(),
        "widths": contents.widths,
    }
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    flat = {key: np.asarray(x) for key, x in flatten_dict(arrays, sep="/").items()}
    np.savez(unfinished / "arrays.npz", **flat)  # type: ignore[arg-type]
    write_text(unfinished / "config.yaml", dump_config(contents.config))
    write_text(unfinished / "recommender.json", json.dumps(record))
    if folder.exists():
        folder.rmdir()
    unfinished.rename(folder)


def read_contents(folder: Path) -> Contents:
    """Reads a folder that `write_contents` wrote; no pickles.

    Raises DatasetError for another folder, or one that a later version wrote.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise DatasetError(
            f"{folder} has no {', '.join(missing)}: expected a folder that Recommender.save wrote; "
            "a run's directory is read by Recommender.from_run"
        )
    try:
        record = read_json(folder / "recommender.json", AGAIN, DatasetError, {"version": int}, MOST)
        if record["version"] > VERSION:
            raise DatasetError(
                f"{folder} was saved by a later version of this package (format "
                f"{shown(record['version'])}, this one reads up to {VERSION}): install that version"
            )
        check_archive(folder / "arrays.npz")
        # Opened here, since NumPy leaves open what is no archive.
        with (
            (folder / "arrays.npz").open("rb") as opened,
            np.load(opened, allow_pickle=False) as file,
        ):
            arrays = unflatten_dict(dict(file), sep="/")
        config = read_config(folder / "config.yaml")
        inductive = METHODS[config.method].INDUCTIVE
        found, knowledge = arrays.get("knowledge"), None
        if inductive is not None and found is not None:
            kind = inductive.kind
            # A dict without entries leaves no array behind.
            knowledge = kind(**{name: found.get(name, {}) for name in kind._fields})
        contents = Contents(
            config=config,
            user_ids=_ids(record["user_ids"]),
            item_ids=_ids(record["item_ids"]),
            scorer=_scorer_of(record, arrays["scorer"]),
            seen=arrays["seen"],
            widths=record["widths"],
            knowledge=knowledge,
            untrained=NewItems(_ids(record["untrained"]), arrays.get("untrained", {})),
        )
        _check_parts(contents)
        return contents
    except DAMAGES as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"{folder} is damaged ({type(error).__name__}: {clipped(str(error))}): save the "
            "recommender again"
        ) from error


def check_archive(file: Path) -> None:
    """Raises ValueError for an archive whose arrays would take more than it holds of them."""
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{shown(entry.filename)} is compressed, as no array of ours is")
            with archive.open(entry) as opened:
                major, _ = np.lib.format.read_magic(opened)
                read = np.lib.format.read_array_header_1_0 if major == 1 else HEADER_2
                shape, _, dtype = read(opened)
            if math.prod(shape) * dtype.itemsize > entry.file_size:
                raise ValueError(f"{shown(entry.filename)} has less than its shape {shape} says")


def _scorer_of(record: dict[str, Any], arrays: dict[str, Any]) -> Scorer:
    """Raises ValueError unless there is one id for every vector, or row of weights."""
    left_out = {"neighbours": None} if record["scorer"] == "item_weights" else {}
    scorer = SCORERS[record["scorer"]](**{**left_out, **arrays})
    n_users, n_items = len(record["user_ids"]), len(record["item_ids"])
    found = len(scorer.users) if isinstance(scorer, Vectors) else n_users, len(scorer[1])
    if found != (n_users, n_items):
        raise ValueError(
            f"ids of {n_users} users and {n_items} items, but vectors or weights of {found[0]} and "
            f"{found[1]}"
        )
    if isinstance(scorer, ItemWeights):
        neighbours, found_shape = scorer.neighbours, scorer.weights.shape
        expected = (n_items, n_items) if neighbours is None else neighbours.shape
        if found_shape != expected:
            raise ValueError(f"weights of shape {found_shape}, expected {expected}")
    return scorer


def _check_parts(contents: Contents) -> None:
    """Raises ValueError for ids, pairs, widths or features that do not belong together."""
    sizes = len(contents.user_ids), len(contents.item_ids)
    for ids in (contents.user_ids, contents.item_ids):
        if len(set(ids.tolist())) < len(ids):
            raise ValueError("an id stands twice")
    for part in SEEN:
        pairs = contents.seen[part]
        if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
            raise ValueError(f"seen pairs are {pairs.dtype} of shape {pairs.shape}")
        if ((pairs < 0) | (pairs >= sizes)).any():
            raise ValueError(f"seen pairs of {part} are of other users or items than there are")
    if isinstance(contents.scorer, Vectors):
        shapes = [side.shape for side in contents.scorer]
        if any(len(shape) != 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
            raise ValueError(f"vectors have shapes {shapes}, expected one width")
    widths, rows = contents.widths, len(np.asarray(contents.untrained.ids))
    if not isinstance(widths, dict) or any(type(width) is not int for width in widths.values()):
        raise ValueError(f"widths are {shown(widths)}, expected a number for each modality")
    for name, features in dict(contents.untrained.features).items():
        if np.shape(features) != (rows, widths[name]):
            raise ValueError(f"features {shown(name)} have shape {np.shape(features)}")


def _ids(raw: list[int] | list[str]) -> np.ndarray:
    """Whole numbers, or texts of any length. Raises ValueError for anything else."""
    kinds = {type(entry) for entry in raw}
    if not isinstance(raw, list) or not (kinds <= {int} or kinds <= {str}):
        raise ValueError(f"ids are {shown(raw)}, expected whole numbers or texts")
    return np.array(raw, np.int64 if raw and isinstance(raw[0], int) else object)
