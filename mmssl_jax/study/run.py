"""Running a study: every variant and seed in a directory of its own, continued where it stopped."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmssl_jax.config import Config, ConfigError
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.data.load import load_dataset
from mmssl_jax.files import check_output_folder
from mmssl_jax.hosts import require_one
from mmssl_jax.messages import shown
from mmssl_jax.method import BASE, Variant
from mmssl_jax.methods import METHODS
from mmssl_jax.ranking.per_user import PerUser, read_per_user, write_per_user
from mmssl_jax.records.log import write_json, write_text
from mmssl_jax.records.read import read_json
from mmssl_jax.run_config import MAY_MOVE, config_diff, dump_config, read_config, validate
from mmssl_jax.study.table import COLUMNS, csv_text, markdown_text, table_rows
from mmssl_jax.study.variants import configure, study_variants
from mmssl_jax.training.begin import dataset_differences, dataset_record
from mmssl_jax.training.conclude import metrics_by_user
from mmssl_jax.training.errors import RunError
from mmssl_jax.training.loop import fit
from mmssl_jax.training.problem import SPLITS, load_problem
from mmssl_jax.training.programs import compile_embedding, split_evaluator
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
    require_one(base.parallel, "a study")
    check_output_folder(out)
    dataset = load_dataset(base.data, METHODS[base.method].NEEDS_FEATURES)
    check_columns(base, dataset)
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
        results = collect_results(out, variants, seeds, [f"test/{name}" for name in COLUMNS])
        rows = table_rows(variants, results, collect_by_user(out, variants, seeds))
        write_text(out / "table.csv", csv_text(rows))
        write_text(out / "table.md", markdown_text(rows))
    return rows


def check_columns(base: Config, dataset: Dataset) -> None:
    """Raises ConfigError or DatasetError where runs would have no figures for the table."""
    lengths = {int(name.partition("@")[2]) for name in COLUMNS}
    if not lengths <= set(base.eval.ks):
        raise ConfigError(
            f"eval.ks is {shown(list(base.eval.ks))}, but the table of a study is of lists of "
            f"{', '.join(map(str, sorted(lengths)))}: add what is missing"
        )
    if not len(dataset.test):
        raise DatasetError(
            f"{dataset.source} has no test interactions, which the table of a study is of: hold "
            "some out, for instance one per user"
        )


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
    keys = RESULT_KEYS | {"best_step": int}
    of_training = read_json(trained / "result.json", RESULT, RunError, keys)
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


RESULT = "the result of a run: remove it, and the run is ended again"
RESULT_KEYS = {"best_epoch": int, "validation": dict}


def read_result(run: Path, figures: Sequence[str] = ()) -> dict[str, Any]:
    """A run's result. Raises RunError for a damaged one.

    figures: what must be in it, such as "test/recall@20".
    """
    path = run / "result.json"
    result = read_json(path, RESULT, RunError, RESULT_KEYS)
    for figure in figures:
        split, _, metric = figure.partition("/")
        metrics = result.get(split)
        value = metrics.get(metric) if isinstance(metrics, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RunError(f"{path}: has no {split} {metric}, which a table needs; it is {RESULT}")
    return result


def collect_results(
    out: Path, variants: list[Variant], seeds: tuple[int, ...], figures: Sequence[str] = ()
) -> dict[str, dict[int, dict[str, Any]]]:
    """{variant: {seed: result}} of the runs that are done; figures: as in `read_result`."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for variant in variants:
        for seed in seeds:
            run = run_of(out, variant.name, seed)
            if (run / "result.json").is_file():
                found.setdefault(variant.name, {})[seed] = read_result(run, figures)
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
