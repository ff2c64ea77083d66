"""What a comparison's directory holds of each method: read from the files alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmssl_jax.config import Config
from mmssl_jax.methods import METHODS
from mmssl_jax.ranking.per_user import METRICS, PerUser, read_per_user
from mmssl_jax.records.log import read_records
from mmssl_jax.records.read import read_json
from mmssl_jax.run_config import read_config
from mmssl_jax.study.run import RESULT, read_result
from mmssl_jax.training.errors import RunError
from mmssl_jax.tune.search import SearchSettings

UNTUNED = "untuned"  # in place of a trial's name
TUNING, DIVERGED = "tuning.json", "diverged.json"
TUNING_KEYS = {
    "trials": int, "pruned": int, "minutes": int | float, "chosen": str | None,
}  # fmt: skip
AGAIN = "a note that a run diverged: remove it, and the run is tried again"


class Budget(NamedTuple):
    """What every method gets: trials, how they are drawn, and the seeds of the chosen settings."""

    trials: int = 20
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    search: SearchSettings = SearchSettings()


class Finished(NamedTuple):
    """A finished run: its result, its epochs' records, and what its lists hold."""

    result: dict[str, Any]
    records: list[dict[str, Any]]
    by_user: PerUser


class Outcome(NamedTuple):
    """What there is of a method.

    tuning: {trials, pruned, minutes, chosen, value, changes} of a search that has ended, `chosen`
    None where no trial finished, or None without a search. begun: trials that have begun. config:
    of the finished runs, None where there is none. diverged: {seed: message}.
    """

    name: str
    title: str
    tuning: dict[str, Any] | None
    begun: int
    config: Config | None
    runs: dict[int, Finished]
    diverged: dict[int, str]


def search_folder(out: Path, name: str) -> Path:
    """Where a method's search lies."""
    return out / "tuning" / name


def run_folder(out: Path, name: str, chosen: str, seed: int) -> Path:
    """Where a run of chosen settings lies: those of a trial, or UNTUNED."""
    return out / "runs" / name / chosen / f"seed-{seed}"


def read_outcomes(out: Path, budget: Budget) -> list[Outcome]:
    """Of every method of which there is something, in the order of METHODS."""
    return [
        outcome
        for name in METHODS
        if (outcome := read_outcome(out, name, budget)).begun or outcome.runs or outcome.diverged
    ]


def read_outcome(out: Path, name: str, budget: Budget) -> Outcome:
    """What there is of one method."""
    search, tuning = search_folder(out, name), None
    if budget.trials and (search / TUNING).is_file():
        what = "the end of a search: remove it, and the search is ended again"
        tuning = read_json(search / TUNING, what, RunError, TUNING_KEYS)
        if tuning["chosen"] is not None and not isinstance(tuning.get("changes"), dict):
            raise RunError(f"{search / TUNING}: has no changes; it is {what}")
    chosen = tuning["chosen"] if tuning else UNTUNED
    runs, diverged, config = {}, {}, None
    for seed, run in _folders(out, name, chosen, budget.seeds):
        if (run / "result.json").is_file():
            runs[seed] = read_run(run)
            config = config or read_config(run / "config.yaml")
        elif (run / DIVERGED).is_file():
            diverged[seed] = read_json(run / DIVERGED, AGAIN, RunError, {"error": str})["error"]
    begun = len(list(search.glob("trial-*"))) if budget.trials else 0
    return Outcome(name, METHODS[name].TITLE, tuning, begun, config, runs, diverged)


def read_run(run: Path) -> Finished:
    """A finished run."""
    by_user = read_per_user(run)
    if by_user is None:
        raise RunError(f"{run} has a result, but no metrics by user: remove it to run it anew")
    result = read_result(run, [f"test/{metric}" for metric in METRICS])
    for key, kind in (("baselines", dict), ("parameters", int)):
        if not isinstance(result.get(key), kind):
            raise RunError(f"{run / 'result.json'}: has no {key}; it is {RESULT}")
    return Finished(result, read_records(run / "metrics.jsonl"), by_user)


def _folders(
    out: Path, name: str, chosen: str | None, seeds: Sequence[int]
) -> Iterator[tuple[int, Path]]:
    if chosen is not None:
        yield from ((seed, run_folder(out, name, chosen, seed)) for seed in seeds)
