"""Reads a run's directory and analyses its best checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from mmssl_jax.checkpoint import CheckpointError
from mmssl_jax.compilation import compiler_options
from mmssl_jax.config import Config
from mmssl_jax.method import Curves, Inspectable, Scorer, Views
from mmssl_jax.methods import METHODS
from mmssl_jax.parallel import in_float32
from mmssl_jax.ranking.baselines import popularity_vectors, random_vectors
from mmssl_jax.ranking.lists import Scoring
from mmssl_jax.recommend import Recommender
from mmssl_jax.recommend.cold_evaluation import evaluate_cold_items
from mmssl_jax.recommend.contents import contents_of
from mmssl_jax.records.log import read_records
from mmssl_jax.records.read import DATASET_KEYS, DATASET_RECORD, read_json
from mmssl_jax.report.analysis import (
    Concentration,
    Groups,
    Histogram,
    PlaneMap,
    concentration,
    found_by_popularity,
    group_bounds,
    group_of,
    item_counts,
    list_metrics,
    metrics_by_activity,
    principal_map,
    weight_distribution,
)
from mmssl_jax.report.lists import rank_lists
from mmssl_jax.report.samples import Sample, sample_recommendations, sample_rows
from mmssl_jax.run_config import read_config
from mmssl_jax.training.errors import RunError
from mmssl_jax.training.problem import Problem, Split, TrainState
from mmssl_jax.training.programs import compile_embedding, held_out_pairs
from mmssl_jax.training.restore import restore_run

MOST_MAPPED = 3000  # items of a map; more would only overlap
SAMPLE_LENGTH = 10
MODEL, POPULARITY, RANDOM = "model", "popularity", "random"


Metrics = dict[str, float]


class Analysis(NamedTuple):
    """Everything a page shows of a state, on one split.

    k: list length of `train.monitor`. metrics: by ranking. activity, found: groups by ranking.
    concentration: by ranking, and of the training data. missing: share of the items that lack a
    modality. weights: {"users" or "items": {modality: histogram}}, with `note` on how to read them.
    maps: by name, of the items whose training interactions are `map_popularity`. cold: metrics by
    where and ranking, empty where no items were held out.
    """

    split: str
    step: int
    ks: list[int]
    k: int
    metrics: dict[str, Metrics]
    activity: dict[str, Groups]
    found: dict[str, Groups]
    concentration: dict[str, Concentration]
    missing: dict[str, float]
    weights: dict[str, dict[str, Histogram]]
    note: str
    maps: dict[str, PlaneMap]
    map_popularity: Int[np.ndarray, " n"]
    samples: list[Sample]
    cold: dict[str, dict[str, Metrics]]


class Run(NamedTuple):
    """What a page says of one run; every dict holds plain values or NumPy arrays.

    number: its place on the page, from 0, which gives its colour. finished: whether the run came to
    its end. curves: figures that its method shows under headings of their own. analysis: of the
    best epoch so far (`analyse`), None if there is no checkpoint, and then `why_not` says so.
    """

    number: int
    label: str
    config: Config
    dataset: dict[str, Any]
    environment: dict[str, Any]
    records: list[dict[str, Any]]
    finished: bool
    curves: tuple[Curves, ...]
    analysis: Analysis | None
    why_not: str


def load_runs(paths: Sequence[str | Path], data_path: str = "") -> list[Run]:
    """Reads and analyses runs; their labels are their directories' names, or paths if equal.

    Raises RunError or DatasetError for a directory that is no run, or data that has changed.
    """
    names = [Path(path).resolve().name for path in paths]
    labels = [n if names.count(n) == 1 else str(p) for n, p in zip(names, paths, strict=True)]
    return [
        load_run(Path(path), label, data_path, number)
        for number, (path, label) in enumerate(zip(paths, labels, strict=True))
    ]


def load_run(path: Path, label: str, data_path: str = "", number: int = 0) -> Run:
    """Reads one run, whether it has ended or not, and analyses its best checkpoint."""
    for name in ("config.yaml", "dataset.json"):
        if not (path / name).is_file():
            raise RunError(f"{path / name} is missing: {path} is not the directory of a run")
    log = path / "metrics.jsonl"
    analysis, why_not = None, ""
    config = read_config(path / "config.yaml")
    method = METHODS[config.method]
    try:
        analysis = analyse(*restore_run(path, "best", data_path, devices=1))
    except CheckpointError as error:
        why_not = str(error)
    return Run(
        number=number,
        label=label,
        config=config,
        dataset=read_json(path / "dataset.json", DATASET_RECORD, RunError, DATASET_KEYS),
        environment=read_environment(path),
        records=read_records(log) if log.is_file() else [],
        finished=(path / "result.json").is_file(),
        curves=method.CURVES if isinstance(method, Inspectable) else (),
        analysis=analysis,
        why_not=why_not,
    )


def read_environment(run: Path) -> dict[str, Any]:
    """What a run ran on; nothing where it has not written it."""
    file = run / "environment.json"
    what = "what the run ran on: remove it to see the page without"
    return read_json(file, what, RunError) if file.exists() else {}


def views_of(problem: Problem, state: TrainState) -> Views:
    """What the method shows of a state; nothing where it shows none."""
    method = problem.method
    if not isinstance(method, Inspectable):
        return Views(weights={}, maps={})
    options = compiler_options(problem.devices[0].platform)
    compiled = jax.jit(in_float32(method.views), compiler_options=options)
    views: Views = compiled(state.method, problem.inputs)
    return views


def analyse(problem: Problem, state: TrainState) -> Analysis:
    """Ranks the test split, or validation without one, and describes lists and state."""
    dataset, config = problem.dataset, problem.config
    split: Split = "test" if len(dataset.test) else "validation"
    pairs = held_out_pairs(problem, split)
    held_out = pairs.held_out
    ks, k = sorted(set(config.eval.ks)), int(config.train.monitor.split("@")[1])
    length = min(max(*ks, SAMPLE_LENGTH), dataset.n_items)

    size = dataset.n_users, dataset.n_items
    rankings: dict[str, Scorer] = {
        MODEL: compile_embedding(problem)(state),
        POPULARITY: popularity_vectors(dataset.train, *size),
        RANDOM: random_vectors(config.train.seed, *size),
    }
    lists = {
        name: rank_lists(scorer, pairs, length, Scoring.of(config))
        for name, scorer in rankings.items()
    }
    item_degrees = np.bincount(dataset.train[:, 1], minlength=dataset.n_items)
    user_degrees = np.bincount(dataset.train[:, 0], minlength=dataset.n_users)
    ranked_degrees = user_degrees[lists[MODEL].users]
    user_bounds = group_bounds(ranked_degrees)
    item_bounds = group_bounds(item_degrees[held_out[:, 1]])
    shown = {name: lists[name] for name in (MODEL, POPULARITY)}
    rows = sample_rows(group_of(ranked_degrees, user_bounds))
    views, method = views_of(problem, state), problem.method
    mapped = mapped_items(dataset.n_items)
    spread = {
        name: concentration(item_counts(each.items[:, :k], dataset.n_items), item_degrees)
        for name, each in shown.items()
    }
    return Analysis(
        split=split,
        step=int(state.step),
        ks=ks,
        k=k,
        metrics={name: list_metrics(each, ks) for name, each in lists.items()},
        activity={
            name: metrics_by_activity(each, ranked_degrees, user_bounds, k)
            for name, each in shown.items()
        },
        found={
            name: found_by_popularity(each, held_out, item_degrees, item_bounds, k)
            for name, each in shown.items()
        },
        concentration={"training": concentration(item_degrees, item_degrees), **spread},
        missing={name: dataset.missing_rate(name) for name in dataset.modalities},
        weights=modality_weights(views),
        note=method.note if isinstance(method, Inspectable) else "",
        maps={name: principal_map(np.asarray(x)[mapped]) for name, x in views.maps.items()},
        map_popularity=item_degrees[mapped],
        samples=sample_recommendations(dataset, held_out, lists[MODEL], rows, SAMPLE_LENGTH),
        cold=cold_items(problem, state),
    )


def cold_items(problem: Problem, state: TrainState) -> dict[str, dict[str, Metrics]]:
    """Metrics by ranking of the items held out by `data.cold_items`, among themselves and among
    all items; empty where none were."""
    if not len(problem.cold.interactions) or problem.method.INDUCTIVE is None:
        return {}
    among_cold, among_all = evaluate_cold_items(problem, Recommender(contents_of(problem, state)))
    return {"among cold items": among_cold, "among all items": among_all}


def modality_weights(views: Views) -> dict[str, dict[str, Histogram]]:
    """Distribution of the modalities' weights, {"users": ..., "items": ...}."""
    return {
        side: weight_distribution(np.stack(list(by_modality.values())), list(by_modality))
        for side, by_modality in views.weights.items()
    }


def mapped_items(n_items: int) -> Int[np.ndarray, " n"]:
    """The items that maps show: all, or a fixed random MOST_MAPPED of them."""
    chosen = np.arange(n_items)
    if n_items > MOST_MAPPED:
        chosen = np.sort(np.random.default_rng(0).choice(n_items, MOST_MAPPED, replace=False))
    return chosen
