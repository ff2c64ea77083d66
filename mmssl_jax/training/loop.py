"""A run from its start, or from where it stopped, to its result."""

import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from mmssl_jax.checkpoint import (
    CheckpointError,
    CheckpointWarning,
    abstract_tree,
    open_checkpoints,
    require_safe_path,
    settle,
    without_leftovers,
)
from mmssl_jax.config import Config, flatten
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.data.facts import scale_warnings
from mmssl_jax.data.load import require_data
from mmssl_jax.digest import digest_texts, digest_words
from mmssl_jax.files import user_path
from mmssl_jax.hosts import (
    count,
    from_primary,
    is_primary,
    join,
    naming_lost_hosts,
    require_one,
    require_same,
)
from mmssl_jax.records.environment import environment
from mmssl_jax.records.events import event_writer, require_tensorboard
from mmssl_jax.records.log import append_record, metric_table, write_json, write_text
from mmssl_jax.records.read import DATASET_RECORD, read_json
from mmssl_jax.run_config import config_diff, dump_config, read_config, validate, without_hosts
from mmssl_jax.training.conclude import conclude
from mmssl_jax.training.epochs import EpochHook, train_epochs
from mmssl_jax.training.errors import RunError
from mmssl_jax.training.lock import LOCK, only_writer
from mmssl_jax.training.part import NOT_BEGUN, Part
from mmssl_jax.training.problem import (
    SPLITS,
    Problem,
    Programs,
    compile_programs,
    load_problem,
    new_state,
)
from mmssl_jax.training.progress import Checkpoints, Outlets, Progress
from mmssl_jax.training.recover import recover, settings_of

# What a run writes up to its settings, with which it begins to exist, whole or in part.
STARTED = ("environment.json", "dataset.json", LOCK)
UNFINISHED = tuple(f"{name}.part" for name in (*STARTED, "config.yaml"))


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


def require_place(run: Path, resume: bool) -> None:
    """Raises RunError or CheckpointError where a run cannot begin or go on in a directory."""
    if run.exists() and not run.is_dir():
        raise RunError(f"{run} is a file: name a directory with --run")
    require_safe_path(run)
    (require_run if resume else require_no_run)(run)


# What hosts may have of their own: their number, and places on their disks.
OF_A_HOST = ("parallel.process", "parallel.compilation_cache", "data.path", "data.format")


def require_same_on_all(problem: Problem) -> None:
    """Raises HostError unless all hosts have the same settings, data, and what is computed from
    them, which all hold whole."""
    if count() == 1:
        return
    settings = {key: x for key, x in flatten(problem.config).items() if key not in OF_A_HOST}
    words = jax.jit(digest_words)(problem.inputs)
    computed = digest_texts(problem.inputs, words)
    require_same(
        settings
        | {f"dataset {key}": value for key, value in dataset_record(problem.dataset).items()}
        | {f"computed from the data: {name}": text for name, text in computed.items()}
    )


def begin_run(problem: Problem, run: Path, resume: bool, held: ExitStack) -> list[str] | None:
    """Takes the run's directory and writes what a new run is; for one that goes on, one line per
    changed setting.

    held: keeps the directory's lock. Raises RunError.
    """
    held.enter_context(only_writer(run))
    if resume:
        return resume_run(problem, run)
    start_run(problem, run)
    return None


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


def require_run(run: Path) -> None:
    """Raises RunError when there is no run in a directory."""
    for name in ("config.yaml", "dataset.json"):
        if not (run / name).is_file():
            raise RunError(f"{run / name} is missing: there is no run to resume in {run}")


def require_no_run(run: Path) -> None:
    """Raises RunError when there is a run, or anything else, in a directory."""
    # Without settings nothing was trained: a start that was killed may start again.
    if run.exists() and any(path.name not in (*STARTED, *UNFINISHED) for path in run.iterdir()):
        raise RunError(
            f"{run} is not empty: add --resume (in Python, resume=True) to continue the run in it, "
            "or name another --run"
        )


def start_run(problem: Problem, run: Path) -> None:
    """Writes what the run is, in its directory.

    Raises RunError when there is a run in it.
    """
    require_no_run(run)  # another process may have begun one meanwhile
    write_json(run / "environment.json", environment(problem.devices))
    write_json(run / "dataset.json", dataset_record(problem.dataset))
    write_text(run / "config.yaml", dump_config(without_hosts(problem.config)))


def dataset_record(dataset: Dataset) -> dict[str, Any]:
    """What identifies a dataset."""
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint(),
        "users": dataset.n_users,
        "items": dataset.n_items,
        **{split: len(edges) for split, edges in dataset.splits.items()},
        "modalities": {name: raw.shape[1] for name, raw in dataset.features.items()},
    }


def dataset_differences(saved: Path, now: dict[str, Any], where: str) -> list[str]:
    """One line per entry of a dataset's record that differs from the file, which is `where`."""
    before = read_json(saved, DATASET_RECORD, RunError)
    return [
        f"dataset {key}: {before.get(key)} {where}, {value} now"
        for key, value in now.items()
        if before.get(key) != value
    ]


def resume_run(problem: Problem, run: Path) -> list[str]:
    """Returns one line per changed setting of `optim`, by which a run may go on otherwise.

    Raises RunError, with the differences, unless `run` holds this very run.
    """
    lines = config_diff(read_config(run / "config.yaml"), problem.config)
    changed = [line for line in lines if line.startswith("optim.")]
    differences = [line for line in lines if line not in changed]
    differences += dataset_differences(
        run / "dataset.json", dataset_record(problem.dataset), "in the run"
    )
    if differences:
        raise RunError(
            f"cannot resume {run}: it was started with other settings or data\n  "
            + "\n  ".join(differences)
            + "\nTake them back, or start a new run with another --run"
        )
    return changed


def resume_line(progress: Progress, part: Part, is_over: bool) -> str:
    """What a resumed run says of where it goes on."""
    if part.steps:
        step = progress.steps + part.steps
        return f"continuing within epoch {progress.epochs}, after step {step}"
    if not progress.epochs:
        return "no epoch was finished: the run starts anew"
    done = f"epoch {progress.epochs - 1}, step {progress.steps}"
    return f"the run was over after {done}" if is_over else f"continuing after {done}"
