"""The search: trials one after another, kept in a SQLite study that the same command continues.

The first trial has the settings that the search starts from, where they lie in its space, so that
the best of a search is not below them. A trial sees the validation split alone. Its suggestion
depends on the finished trials and the search's seed alone, so that a search that was interrupted
suggests what it would have suggested.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmssl_jax.config import Config, ConfigError, flatten, override
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.data.load import load_dataset
from mmssl_jax.files import check_output_folder
from mmssl_jax.hosts import require_one
from mmssl_jax.messages import shown
from mmssl_jax.methods import METHODS
from mmssl_jax.records.log import read_records, write_json
from mmssl_jax.records.read import read_json
from mmssl_jax.run_config import MAY_MOVE, validate
from mmssl_jax.study.run import finish_run, read_result
from mmssl_jax.training.begin import dataset_record
from mmssl_jax.training.errors import DivergedError, RunError
from mmssl_jax.training.lock import LOCK, only_writer
from mmssl_jax.tune.database import DATABASE, load_optuna, open_study, readable_study
from mmssl_jax.tune.parameters import changes_of, distributions, start_params
from mmssl_jax.tune.space import Space

# They change where and how fast trials run, not what they are.
PARALLEL = ("devices", "tables", "transform", "compilation_cache")
MAY_CHANGE = (*MAY_MOVE, *(f"parallel.{name}" for name in PARALLEL))

SEARCH = "search.json"


class SearchSettings(NamedTuple):
    """How trials are drawn and ended.

    A trial is pruned when its best validation value so far is below the median of the finished
    trials' values at the same epoch; not in its first `warmup_epochs` epochs, and not before
    `warmup_trials` trials have finished. With `minutes` above 0 no trial begins once the trials
    have taken as long; one that was interrupted is finished.
    """

    seed: int = 0
    warmup_trials: int = 5
    warmup_epochs: int = 5
    minutes: float = 0.0


class Trial(NamedTuple):
    """A finished trial; `value` is the best validation value, None if it was pruned early."""

    run: str
    changes: dict[str, Any]
    value: float | None
    reason: str = ""
    seconds: float = 0.0


def search(
    base: Config,
    space: Space,
    out: Path,
    n_trials: int,
    settings: SearchSettings,
    say: Callable[[str], None],
) -> list[Trial]:
    """Runs what is missing of `n_trials` trials, in `out/trial-0000` and so on.

    Pruned trials count. So do those whose settings do not fit together or whose loss is no longer
    finite; the search treats them as pruned.
    Returns all trials. Raises ConfigError, DatasetError, RunError.
    """
    require_one(base.parallel, "a search")
    optuna = load_optuna()
    check_output_folder(out)
    check_folder(out)
    with only_writer(out), readable_study(out / DATABASE):
        check_same_search(base, space, settings, out)
        pruner = optuna.pruners.MedianPruner(
            n_startup_trials=settings.warmup_trials, n_warmup_steps=settings.warmup_epochs
        )
        study = open_study(optuna, out / DATABASE, pruner)
        if not study.get_trials():
            start = start_params(space, base)
            if start is None:
                say("no trial has the settings that the search starts from: the space has not all")
            else:
                study.enqueue_trial(start)
        state = optuna.trial.TrialState
        while (n_done := len(finished_trials(optuna, study, space))) < n_trials:
            if not may_begin(optuna, study, settings.minutes):
                break
            mixed = np.random.SeedSequence([settings.seed, n_done]).generate_state(1)[0]
            study.sampler = optuna.samplers.TPESampler(seed=int(mixed))
            drawn = study.ask(distributions(optuna, space))
            run = out / f"trial-{n_done:04d}"
            drawn.set_user_attr("run", run.name)
            config = override(base, changes_of(space, drawn.params))
            began, before = time.perf_counter(), seconds_before(run)
            try:
                validate(config)
                value: float | None = run_trial(optuna, drawn, config, run)
            except (optuna.TrialPruned, ConfigError, DivergedError) as error:
                drawn.set_user_attr("reason", str(error))
                value = None
            drawn.set_user_attr("seconds", before + time.perf_counter() - began)
            study.tell(drawn, value, state=state.PRUNED if value is None else state.COMPLETE)
            say(trial_line(finished_trials(optuna, study, space)[-1], base.train.monitor))
        return finished_trials(optuna, study, space)


def may_begin(optuna: Any, study: Any, minutes: float) -> bool:
    """Whether a trial may begin: one waits to be continued, or there is time left."""
    state = optuna.trial.TrialState
    if not minutes or study.get_trials(states=(state.WAITING,)):
        return True
    done = study.get_trials(states=(state.COMPLETE, state.PRUNED))
    return sum(trial.user_attrs.get("seconds", 0.0) for trial in done) < 60 * minutes


def seconds_before(run: Path) -> float:
    """What the finished epochs of a trial took before it was interrupted."""
    log = run / "metrics.jsonl"
    records = read_records(log) if log.is_file() else []
    return float(sum(record.get("seconds", 0.0) for record in records))


def run_trial(optuna: Any, drawn: Any, config: Config, run: Path) -> float:
    """Trains one trial, or continues it, and returns the validation value of its best epoch.

    Raises optuna.TrialPruned when it falls behind, and what `fit` raises.
    """
    monitor, told = config.train.monitor, set()

    def on_epoch(epoch: int, validation: dict[str, float]) -> None:
        if epoch in told:
            return
        told.add(epoch)
        drawn.report(validation[monitor], epoch)
        if drawn.should_prune():
            raise optuna.TrialPruned(f"behind the median after epoch {epoch}")

    log = run / "metrics.jsonl"  # of this trial, if it was interrupted
    for record in read_records(log) if log.is_file() else []:
        if f"validation/{monitor}" in record:
            on_epoch(record["epoch"], {monitor: record[f"validation/{monitor}"]})
    finish_run(config, run, trial=on_epoch)
    return float(read_result(run, [f"validation/{monitor}"])["validation"][monitor])


def check_folder(out: Path) -> None:
    """Raises RunError for a folder that holds something else than a search."""
    begun = (LOCK, f"{SEARCH}.part")  # by a process that was killed
    if (out / SEARCH).is_file() or not out.exists():
        return
    if not out.is_dir() or any(path.name not in begun for path in out.iterdir()):
        raise RunError(f"{out} is in use and holds no search: name another with --out")


def check_same_search(base: Config, space: Space, settings: SearchSettings, out: Path) -> None:
    """Writes to `out/SEARCH` what makes trials comparable, or compares with what is there.

    Raises RunError with the differences, DatasetError for data without a validation split.
    """
    validate(base)
    dataset = load_dataset(base.data, METHODS[base.method].NEEDS_FEATURES)
    if not len(dataset.validation):
        raise DatasetError(
            f"{dataset.source} has no validation interactions, which choose the best trial: hold "
            "some out, for instance one per user"
        )
    now = {key: value for key, value in flatten(base).items() if key not in MAY_CHANGE}
    now |= {f"space {key}": entry._asdict() for key, entry in space.items()}
    now |= {f"dataset {key}": value for key, value in dataset_record(dataset).items()}
    now["search_seed"] = settings.seed
    now = json.loads(json.dumps(now))
    path = out / SEARCH
    if not path.is_file():
        write_json(path, now)
        return
    what = "what makes the trials of a search comparable: name a new --out"
    saved = read_json(path, what, RunError)
    # A setting that only one version has is passed over; the space and the data are not.
    known = flatten(base)
    keys = [
        key
        for key in {**saved, **now}
        if saved.get(key) != now.get(key)
        and key not in MAY_CHANGE
        and not (key in known and key not in saved)
    ]
    if keys:
        lines = [
            f"{shown(key)[1:-1]}: {shown(saved.get(key))} in the search, {shown(now.get(key))} now"
            for key in keys
        ]
        raise RunError(
            f"{out} holds a search of other settings or data\n  "
            + "\n  ".join(lines)
            + "\nTake them back, or start a new search with another --out"
        )


def finished_trials(optuna: Any, study: Any, space: Space) -> list[Trial]:
    """The study's complete and pruned trials, in order."""
    state = optuna.trial.TrialState
    return [
        Trial(
            trial.user_attrs["run"],
            changes_of(space, trial.params),
            trial.value if trial.state == state.COMPLETE else None,
            trial.user_attrs.get("reason", ""),
            trial.user_attrs.get("seconds", 0.0),
        )
        for trial in study.get_trials(states=(state.COMPLETE, state.PRUNED))
    ]


def trial_line(trial: Trial, monitor: str) -> str:
    """One line for a finished trial."""
    outcome = f"pruned: {trial.reason}" if trial.value is None else f"{monitor} {trial.value:.4f}"
    return f"{trial.run}  {outcome}  ({describe(trial.changes)})"


def describe(changes: dict[str, Any]) -> str:
    """`optim.lr 0.000123, model.heads 4`."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in changes.items()
    )
