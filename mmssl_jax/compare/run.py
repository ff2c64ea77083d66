"""Running a comparison: for each method a search, then the chosen settings over seeds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmssl_jax.compare.outcome import (
    DIVERGED,
    TUNING,
    UNTUNED,
    Budget,
    read_outcomes,
    run_folder,
    search_folder,
)
from mmssl_jax.compare.page import Section, page, progress, result_sections
from mmssl_jax.compare.plan import Entry
from mmssl_jax.compare.table import Degrees, Row, markdown_text, table_rows
from mmssl_jax.config import Config, override
from mmssl_jax.data.cold import hold_out_cold_items
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.data.load import load_dataset
from mmssl_jax.files import check_output_folder
from mmssl_jax.hosts import require_one
from mmssl_jax.methods import METHODS
from mmssl_jax.records.log import write_json, write_text
from mmssl_jax.report.plots import require_matplotlib
from mmssl_jax.study.run import check_same_dataset, finish_run
from mmssl_jax.study.table import csv_text
from mmssl_jax.training.errors import DivergedError, RunError
from mmssl_jax.tune.database import load_optuna
from mmssl_jax.tune.outcome import write_best
from mmssl_jax.tune.search import search

Say = Callable[[str], None]


def compare_methods(entries: Sequence[Entry], out: Path, budget: Budget, say: Say) -> list[Row]:
    """Runs what is missing of a comparison, and after each trial and run writes `table.csv`,
    `table.md` and `index.html` anew.

    Trials read the validation split alone; the test split is read once by each finished run.

    Args:
      out: the comparison's directory: searches in `tuning/<method>`, runs in
        `runs/<method>/<trial>/seed-<seed>`. The tables hold all methods that have results.
    Returns: the table's rows. Raises ConfigError, DatasetError, RunError.
    """
    require_one(entries[0].config.parallel, "a comparison")
    require_matplotlib()
    check_output_folder(out)
    if budget.trials and any(entry.space for entry in entries):
        load_optuna()
    dataset = check_dataset(entries)
    check_same_dataset(dataset, out)
    degrees = training_degrees(dataset, entries[0].config)

    wanted = [entry.name for entry in entries]
    drawn: dict[str, list[Section]] = {}

    def refresh() -> list[Row]:
        outcomes = read_outcomes(out, budget)
        rows = table_rows(outcomes, degrees)
        table = csv_text(rows) if rows else ""
        if table not in drawn:  # a trial changes no picture
            drawn.clear()
            drawn[table] = result_sections(outcomes, rows)
            write_tables(out, rows)
        write_text(out / "index.html", page(progress(outcomes, budget, wanted), drawn[table]))
        return rows

    def tell(line: str) -> None:
        say(line)
        # Every run compiles programs of its own. Kept, those of some hundred runs fill a memory.
        jax.clear_caches()
        refresh()

    refresh()
    for entry in entries:
        chosen = choose_settings(entry, out, budget, tell)
        if chosen is None:
            continue
        name, config = chosen
        for seed in budget.seeds:
            run = run_folder(out, entry.name, name, seed)
            tell(f"{entry.name}  {name}  {finish_seed(config, run, seed)}")
    return refresh()


def check_dataset(entries: Sequence[Entry]) -> Dataset:
    """The dataset, which every method can be trained on and which has both held-out splits."""
    dataset = load_dataset(entries[0].config.data, needs_features=False)
    needing = [entry.name for entry in entries if METHODS[entry.name].NEEDS_FEATURES]
    if needing and not dataset.features:
        raise DatasetError(
            f"{dataset.source} has no features of items, which {', '.join(needing)} cannot do "
            "without: name the other methods with --only"
        )
    for split in ("validation", "test"):
        if not len(dataset.splits[split]):
            raise DatasetError(
                f"{dataset.source} has no {split} interactions: methods are chosen between by "
                "validation and compared on test; hold some out, for instance one per user"
            )
    return dataset


def training_degrees(dataset: Dataset, config: Config) -> Degrees:
    """Training interactions of each user and item, as a run has them."""
    warm, _ = hold_out_cold_items(dataset, float(config.data.cold_items), config.data.seed)
    sizes = dataset.n_users, dataset.n_items
    return Degrees(*(np.bincount(warm.train[:, i], minlength=n) for i, n in enumerate(sizes)))


def choose_settings(entry: Entry, out: Path, budget: Budget, say: Say) -> tuple[str, Config] | None:
    """The name and the settings of the best trial by validation; those that the method starts from
    where nothing is searched over, None where no trial finished."""
    if not budget.trials or not entry.space:
        return UNTUNED, entry.config
    folder = search_folder(out, entry.name)
    trials = search(
        entry.config, entry.space, folder, budget.trials, budget.search,
        lambda line: say(f"{entry.name}  {line}"),
    )  # fmt: skip
    record: dict[str, Any] = {
        "trials": len(trials),
        "pruned": sum(trial.value is None for trial in trials),
        "minutes": sum(trial.seconds for trial in trials) / 60,
        "chosen": None,
    }
    try:
        best, config = write_best(entry.config, trials, folder)
    except RunError as error:
        write_json(folder / TUNING, record | {"error": str(error)})
        say(f"{entry.name}  {error}")
        return None
    record |= {"chosen": best.run, "value": best.value, "changes": best.changes}
    write_json(folder / TUNING, record)
    return best.run, config


def finish_seed(config: Config, run: Path, seed: int) -> str:
    """Runs settings with a seed, or what is missing of it; returns a line about it.

    A run that diverges is noted, and does not end the comparison.
    """
    try:
        finish_run(override(config, {"train.seed": seed}), run)
    except DivergedError as error:
        write_json(run / DIVERGED, {"error": str(error)})
        return f"seed {seed} diverged: {error}"
    return f"seed {seed} finished"


def write_tables(out: Path, rows: list[Row]) -> None:
    """Writes the table of what there is, once there is anything."""
    if rows:
        write_text(out / "table.csv", csv_text(rows))
        write_text(out / "table.md", markdown_text(rows))
