"""Running a study: every variant and seed in a directory of its own, continued where it stopped."""

import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.data.load import load_dataset
from mmssl_jax.method import BASE, Variant
from mmssl_jax.methods import METHODS
from mmssl_jax.ranking.per_user import PerUser, read_per_user
from mmssl_jax.records.log import write_json, write_text
from mmssl_jax.run_config import MAY_MOVE, config_diff, read_config, validate
from mmssl_jax.study.table import csv_text, markdown_text, table_rows
from mmssl_jax.study.variants import configure, study_variants
from mmssl_jax.training.epochs import RunError
from mmssl_jax.training.loop import dataset_differences, dataset_record, fit


def run_study(
    study: str,
    base: Config,
    out: Path,
    seeds: tuple[int, ...],
    only: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """Runs what is missing of a study and writes `table.csv` and `table.md`, after each run anew.

    Args:
      out: the study's directory; a run lies in `<variant>/seed-<seed>` under it.
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
        finish_run(config, out / variant.name / f"seed-{seed}")
        found = collect_results(out, variants, seeds), collect_by_user(out, variants, seeds)
        rows = table_rows(variants, *found)
        write_text(out / "table.csv", csv_text(rows))
        write_text(out / "table.md", markdown_text(rows))
    return rows


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
    if (run / "config.yaml").is_file():
        # Its length too: a shorter run's figures are not this one's.
        differences = config_diff(read_config(run / "config.yaml"), config, MAY_MOVE)
        if differences:
            raise RunError(
                f"{run} holds a run of other settings\n  "
                + "\n  ".join(differences)
                + "\nName another directory with --out, or remove it"
            )
        if (run / "result.json").is_file():
            return
    fit(config, run, resume=(run / "config.yaml").is_file(), quiet=True, **options)


def collect_results(
    out: Path, variants: list[Variant], seeds: tuple[int, ...]
) -> dict[str, dict[int, dict[str, Any]]]:
    """{variant: {seed: result}} of the runs that are done."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for variant in variants:
        for seed in seeds:
            path = out / variant.name / f"seed-{seed}" / "result.json"
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
            of_run = read_per_user(out / variant.name / f"seed-{seed}")
            if of_run is not None:
                found.setdefault(variant.name, {})[seed] = of_run
    return found
