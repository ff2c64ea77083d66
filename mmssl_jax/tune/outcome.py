"""The best trial of a search: its settings as a file, and its runs with several seeds."""

from pathlib import Path
from typing import Any

from mmssl_jax.config import Config, override
from mmssl_jax.method import BASE
from mmssl_jax.records.log import write_text
from mmssl_jax.run_config import dump_config
from mmssl_jax.study.run import collect_results, finish_run
from mmssl_jax.study.table import COLUMNS, Results, summarize
from mmssl_jax.study.variants import SEEDS, configure, study_variants
from mmssl_jax.training.errors import RunError
from mmssl_jax.tune.search import Trial, describe


def best_trial(trials: list[Trial]) -> Trial:
    """The trial of the highest validation value, the earliest of equals.

    Raises RunError when all were pruned.
    """
    complete = [trial for trial in trials if trial.value is not None]
    if not complete:
        reasons = sorted({trial.reason for trial in trials})
        raise RunError(
            f"none of {len(trials)} trials finished ({'; '.join(reasons)}): narrow the space, "
            "or raise --warmup_trials and --trials"
        )
    return max(complete, key=lambda trial: trial.value)  # type: ignore[arg-type, return-value]


def write_best(base: Config, trials: list[Trial], out: Path) -> tuple[Trial, Config]:
    """Writes the best trial's settings to `out/best.yaml`, with what they are at its head."""
    best = best_trial(trials)
    config = override(base, best.changes)
    pruned = sum(trial.value is None for trial in trials)
    head = (
        f"# The best of {len(trials)} trials ({pruned} pruned) of the search in {out.name}: "
        f"{best.run},\n# validation {base.train.monitor} {best.value:.5f} "
        f"(seed {base.train.seed}).\n# {describe(best.changes)}\n"
    )
    write_text(out / "best.yaml", head + dump_config(config))
    return best, config


def rerun_best(config: Config, run_name: str, out: Path, seeds: tuple[int, ...]) -> str:
    """Runs the best settings with each seed, as the study `seeds` does, and writes `out/best.md`.

    Only here is the test split evaluated. Runs that are there already are kept.
    Returns the table of means and deviations on validation and test.
    """
    variants = study_variants(SEEDS, config, ())
    folder = out / f"best-{run_name}"
    for seed in seeds:
        finish_run(configure(config, variants[0], seed), folder / BASE / f"seed-{seed}")
    table = seed_table(collect_results(folder, variants, seeds), config.train.monitor)
    write_text(out / "best.md", table)
    return table


def seed_table(results: Results, monitor: str) -> str:
    """Mean and sample deviation over seeds, a row per split and metric that all results have."""
    lines = ["| split | metric | seeds | mean | deviation |", "| --- | --- | --- | --- | --- |"]
    first: dict[str, Any] = next(iter(results[BASE].values()))
    for split in ("validation", "test"):
        for metric in dict.fromkeys((monitor, *COLUMNS)):
            if metric in first.get(split, {}):
                found = summarize(results, BASE, metric, split)
                deviation = f"{found.deviation:.4f}" if found.seeds > 1 else ""
                lines.append(
                    f"| {split} | {metric} | {found.seeds} | {found.mean:.4f} | {deviation} |"
                )
    return "\n".join(lines) + "\n"
