"""A run from its start, or from where it stopped, to its result."""

import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmssl_jax.checkpoint import (
    CheckpointError,
    CheckpointWarning,
    abstract_tree,
    open_checkpoints,
    settle,
)
from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.data.facts import scale_warnings
from mmssl_jax.data.load import require_data
from mmssl_jax.files import user_path
from mmssl_jax.hosts import (
    count,
    from_primary,
    is_primary,
    join,
    naming_lost_hosts,
    require_one,
)
from mmssl_jax.orbax_threads import without_leftovers
from mmssl_jax.records.events import event_writer, require_tensorboard
from mmssl_jax.records.log import append_record, metric_table, write_text
from mmssl_jax.run_config import dump_config, validate, without_hosts
from mmssl_jax.training.begin import begin_run, require_place, require_same_on_all
from mmssl_jax.training.conclude import conclude
from mmssl_jax.training.epochs import EpochHook, train_epochs
from mmssl_jax.training.part import NOT_BEGUN, Part
from mmssl_jax.training.problem import SPLITS, Problem, load_problem, new_state
from mmssl_jax.training.programs import Programs, compile_programs
from mmssl_jax.training.progress import Checkpoints, Outlets, Progress
from mmssl_jax.training.recover import recover, settings_of


def fit(
    config: Config,
    run: Path,
    resume: bool = False,
    dataset: Dataset | None = None,
    quiet: bool = False,
    trial: EpochHook | None = None,
) -> dict[str, Any]:
    """Trains to the early stop, then evaluates the best epoch on validation and test.

    Args:
      run: the run's directory; new, or with `resume` one that holds a run of the same settings.
      dataset: used instead of reading the configured one.
      quiet: prints nothing and shows no progress bar.
      trial: makes the run a trial of a search, which leaves the test split unread. Called after
        every epoch with its number and validation metrics; what it raises ends the run without a
        result.
    Returns: `{"best_epoch", "best_step", "validation": metrics, "test": metrics, "baselines",
      "parameters": their number}`, which is also written to `result.json`.
    Raises ConfigError, DatasetError, RunError, HostError, each with what to do about it.
    Several hosts that train one run all call this, with one directory that all of them see.
    """
    validate(config)
    if trial is not None:
        require_one(config.parallel, "a trial of a search")
    require_tensorboard(config.train)
    join(config.parallel)
    run = user_path(run)
    with naming_lost_hosts(resume_command(run)):
        return joined_fit(config, run, resume, dataset, quiet, trial)


def resume_command(run: Path) -> str:
    """What goes on with a run."""
    return f"python train.py --run {shlex.quote(str(run))} --resume"


def joined_fit(
    config: Config,
    run: Path,
    resume: bool,
    dataset: Dataset | None,
    quiet: bool,
    trial: EpochHook | None,
) -> dict[str, Any]:
    """`fit`, on each of the hosts that have joined."""
    if resume and dataset is None:
        require_data(config.data, run)
    from_primary(lambda: require_place(run, resume))
    problem = load_problem(config, dataset)
    if not len(problem.dataset.validation):
        raise DatasetError(
            f"{problem.dataset.source} has no validation interactions, which choose the best "
            "epoch: hold some out, for instance one per user"
        )
    say = speaker(quiet)
    say("\n".join([problem.dataset.summary(), *scale_warnings(problem.dataset)]))
    require_same_on_all(problem)
    programs = compile_programs(problem, SPLITS if trial is None else ("validation",))
    with ExitStack() as held:
        changed = from_primary(lambda: begin_run(problem, run, resume, held))
        try:
            result = train_in(problem, programs, run, changed, quiet, trial)
        except KeyboardInterrupt:
            if not quiet:  # whichever host was stopped
                tqdm.write(f"stopped; continue with: {resume_command(run)}")
            raise
    for split in ("validation", "test"):
        if split in result:
            rows = {problem.method.TITLE: result[split]}
            rows |= result["baselines"] if split == "test" else {}
            say(f"\n{split}, epoch {result['best_epoch']}\n{metric_table(rows)}")
    return result


def speaker(quiet: bool) -> Callable[[str], None]:
    """What prints a line beside a progress bar, or nothing."""
    return tqdm.write if is_primary() and not quiet else (lambda text: None)


def warner(quiet: bool) -> Callable[[str], None]:
    """The same for what nobody may miss: a quiet run warns."""
    if not is_primary():
        return lambda text: None
    return (lambda text: warnings.warn(text, CheckpointWarning, 3)) if quiet else tqdm.write


def train_in(
    problem: Problem,
    programs: Programs,
    run: Path,
    changed: list[str] | None,
    quiet: bool,
    trial: EpochHook | None,
) -> dict[str, Any]:
    """Trains, and evaluates, in a directory that no other process writes to.

    changed: one line per changed setting of a run that goes on, None for a new one.
    """
    config, say, state = problem.config, speaker(quiet), new_state(problem)
    with opened_checkpoints(run) as checkpoints, event_writer(config.train, run) as write_events:
        progress, part = Progress(), NOT_BEGUN
        if changed is not None:
            state, progress, part = recover(checkpoints, state, config, run, warner(quiet))
            say(resume_line(progress, part, progress.is_over(config)))
            if changed and is_primary():
                step = progress.steps + part.steps
                append_record(run / "metrics.jsonl", {"step": step, "note": "; ".join(changed)})
            if is_primary():  # its length may have changed, too
                write_text(run / "config.yaml", dump_config(without_hosts(config)))
        like = abstract_tree(state)
        try:
            if not progress.is_over(config):
                say("training; the first epoch takes longer, since it compiles")
            has_no_bar = quiet or not is_primary()
            outlets = Outlets(run, settings_of(config), checkpoints, write_events, say, has_no_bar)
            state = programs.training.lay_out(state)  # what was whole goes
            train_epochs(problem, programs, (state, progress, part), outlets, trial)
        except BaseException:
            # Other hosts may have gone, or wait for this one.
            for manager in checkpoints if count() == 1 else ():
                with suppress(CheckpointError):  # what ends the run is told, not what comes after
                    settle(manager, like)
            raise
        for manager in checkpoints:
            settle(manager, like)
        say(f"ended; the best epoch by validation {config.train.monitor} is restored")
        result = conclude(problem, programs, like, checkpoints, run)
        test = {f"test/{name}": value for name, value in result.get("test", {}).items()}
        if is_primary():
            write_events({"step": result["best_step"], **test})
    return result


@contextmanager
def opened_checkpoints(run: Path) -> Iterator[Checkpoints]:
    """The checkpoint managers of a run, closed in the end; but not when one of several hosts ends
    before its time, since closing waits for the others."""
    with without_leftovers():
        checkpoints = Checkpoints(open_checkpoints(run, "best"), open_checkpoints(run, "last"))
        is_whole = False
        try:
            yield checkpoints
            is_whole = True
        finally:
            for manager in checkpoints if is_whole or count() == 1 else ():
                # Closing raises anew what has failed before, and was told then.
                with suppress(Exception):
                    manager.close()


def resume_line(progress: Progress, part: Part, is_over: bool) -> str:
    """What a resumed run says of where it goes on."""
    if part.steps:
        step = progress.steps + part.steps
        return f"continuing within epoch {progress.epochs}, after step {step}"
    if not progress.epochs:
        return "no epoch was finished: the run starts anew"
    done = f"epoch {progress.epochs - 1}, step {progress.steps}"
    return f"the run was over after {done}" if is_over else f"continuing after {done}"
