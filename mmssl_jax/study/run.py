"""Running a study: every variant and seed in a directory of its own, continued where it stopped."""

import json
import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.data.load import load_dataset
from mmssl_jax.method import BASE, Variant
from mmssl_jax.methods import METHODS
from mmssl_jax.ranking.per_user import PerUser, read_per_user, write_per_user
from mmssl_jax.records.log import write_json, write_text
from mmssl_jax.run_config import MAY_MOVE, config_diff, dump_config, read_config, validate
from mmssl_jax.study.table import csv_text, markdown_text, table_rows
from mmssl_jax.study.variants import configure, study_variants
from mmssl_jax.training.epochs import RunError
from mmssl_jax.training.loop import (
    dataset_differences,
    dataset_record,
    fit,
    metrics_by_user,
)
from mmssl_jax.training.problem import SPLITS, compile_embedding, load_problem, split_evaluator
from mmssl_jax.training.restore import restore_run


def run_study(
    study: str,
    base: Config,
    out: Path,
    seeds: tuple[int, ...],
    only: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """Runs what is missing of a study and writes `table.csv` and `table.md`, after each run anew.

    Args:
      out: the study's directory; a run lies in `<variant>/seed-<seed>` under it, and so does the
        evaluation of a variant that is not trained, without checkpoints.
      seeds: all variants see the same, so that differences are paired.
      only: names of the variants to run beside the base; the table holds all that have results.
    Returns: the table's rows. Raises ConfigError, DatasetError, RunError.
    """
    validate(base)
    dataset = load_dataset(base.data, METHODS[base.method].NEEDS_FEATURES)
    variants = study_variants(study, base, dataset.modalities)
    unknown = set(only) - {variant.name for variant in variants}
    if unknown:
        known = ", ".join(variant.name for variant in variants)
        raise RunError(f"there is no variant {sorted(unknown)[0]!r} in {study}; there are {known}")
    wanted = [v for v in variants if not only or v.name in (BASE, *only)]
    check_same_dataset(dataset, out)
    runs = [(variant, seed) for seed in seeds for variant in wanted]
    rows: list[dict[str, Any]] = []
    for variant, seed in tqdm(runs, unit="run", dynamic_ncols=True):
        config = configure(base, variant, seed)
        validate(config)
        run = run_of(out, variant.name, seed)
        if variant.state_of:
            finish_evaluation(config, run_of(out, variant.state_of, seed), run)
        else:
            finish_run(config, run)
        found = collect_results(out, variants, seeds), collect_by_user(out, variants, seeds)
        rows = table_rows(variants, *found)
        write_text(out / "table.csv", csv_text(rows))
        write_text(out / "table.md", markdown_text(rows))
    return rows


def run_of(out: Path, variant: str, seed: int) -> Path:
    """The directory of one run of a study."""
    return out / variant / f"seed-{seed}"


def check_same_dataset(dataset: Dataset, out: Path) -> None:
    """Writes to `out/dataset.json` what the study runs on, or compares with what is there.

    Raises RunError for another dataset, whose figures would stand in the same table.
    """
    now, path = dataset_record(dataset), out / "dataset.json"
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, now)
        return
    differences = dataset_differences(path, now, "in the study")
    if differences:
        raise RunError(
            f"{out} holds a study of another dataset\n  "
            + "\n  ".join(differences)
            + "\nName another directory with --out, or remove it"
        )


def finish_run(config: Config, run: Path, **options: Any) -> None:
    """Runs `config` in `run`, or continues it; does nothing when it is there and done.

    Args:
      options: further arguments of `fit`.
    Raises RunError when another configuration was run there.
    """
    check_same_settings(config, run)
    if not (run / "result.json").is_file():
        fit(config, run, resume=(run / "config.yaml").is_file(), quiet=True, **options)


def finish_evaluation(config: Config, trained: Path, run: Path) -> None:
    """Evaluates the best state of the run `trained` under the inputs of `config`, and writes the
    result to `run` as a run does; does nothing when it is there.

    Raises RunError when another configuration was evaluated there.
    """
    check_same_settings(config, run)
    if (run / "result.json").is_file():
        return
    _, state = restore_run(trained, devices=config.parallel.devices)
    problem = load_problem(config)
    scorer = compile_embedding(problem)(state)
    of_training = json.loads((trained / "result.json").read_text())
    result: dict[str, Any] = {
        "best_epoch": of_training["best_epoch"],
        "best_step": of_training["best_step"],
        "state_of": os.path.relpath(trained, run),
        **{
            split: split_evaluator(problem, split)(scorer)
            for split in SPLITS
            if len(problem.dataset.splits[split])
        },
    }
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "dataset.json", dataset_record(problem.dataset))
    write_text(run / "config.yaml", dump_config(config))
    if "test" in result:
        write_per_user(run, metrics_by_user(problem, scorer))
    write_json(run / "result.json", result)


def check_same_settings(config: Config, run: Path) -> None:
    """Raises RunError with the differences when `run` holds a run of another configuration."""
    if not (run / "config.yaml").is_file():
        return
    # Its length too: a shorter run's figures are not this one's.
    differences = config_diff(read_config(run / "config.yaml"), config, MAY_MOVE)
    if differences:
        raise RunError(
            f"{run} holds a run of other settings\n  "
            + "\n  ".join(differences)
            + "\nName another directory with --out, or remove it"
        )


def collect_results(
    out: Path, variants: list[Variant], seeds: tuple[int, ...]
) -> dict[str, dict[int, dict[str, Any]]]:
    """{variant: {seed: result}} of the runs that are done."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for variant in variants:
        for seed in seeds:
            path = run_of(out, variant.name, seed) / "result.json"
            if path.is_file():
                found.setdefault(variant.name, {})[seed] = json.loads(path.read_text())
    return found


def collect_by_user(
    out: Path, variants: list[Variant], seeds: tuple[int, ...]
) -> dict[str, dict[int, PerUser]]:
    """{variant: {seed: metrics by user}} of the runs that have them."""
    found: dict[str, dict[int, PerUser]] = {}
    for variant in variants:
        for seed in seeds:
            of_run = read_per_user(run_of(out, variant.name, seed))
            if of_run is not None:
                found.setdefault(variant.name, {})[seed] = of_run
    return found
