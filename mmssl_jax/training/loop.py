"""The host's side of training: epochs, validation, early stopping, checkpoints, log."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from tqdm import tqdm

from mmssl_jax.checkpoint import (
    open_checkpoints,
    restore_record,
    restore_tree,
    save_checkpoint,
)
from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.ranking.baselines import popularity_vectors, random_vectors
from mmssl_jax.reporting.environment import environment
from mmssl_jax.reporting.log import (
    append_record,
    epoch_line,
    keep_records_until,
    metric_table,
    write_json,
    write_text,
)
from mmssl_jax.run_config import config_diff, dump_config, read_config, validate
from mmssl_jax.training.problem import (
    SPLITS,
    Problem,
    Programs,
    Split,
    compile_programs,
    load_problem,
    new_state,
)
from mmssl_jax.training.state import TrainState


class RunError(RuntimeError):
    """A run that cannot start, continue or go on; the message says what to do."""


class DivergedError(RunError):
    """A loss or an embedding is no longer finite."""


# Called after every epoch with its number and its validation metrics. What it raises ends the run,
# which can be resumed.
EpochHook = Callable[[int, dict[str, float]], None]


class Progress(NamedTuple):
    """How far a run is, and what early stopping knows."""

    epochs: int = 0
    steps: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    misses: int = 0

    def after(self, value: float, steps: int) -> "Progress":
        """Progress after one more epoch with this validation value."""
        if value > self.best:
            return Progress(self.epochs + 1, steps, value, self.epochs, 0)
        return self._replace(epochs=self.epochs + 1, steps=steps, misses=self.misses + 1)

    def is_over(self, config: Config) -> bool:
        """Whether the run has reached its epochs, its steps, or the end of its patience."""
        train = config.train
        out_of_steps = train.max_steps and self.steps >= train.max_steps
        return bool(self.epochs >= train.epochs or out_of_steps or self.misses > train.patience)


class Checkpoints(NamedTuple):
    """The two checkpoint managers of a run."""

    best: ocp.CheckpointManager
    last: ocp.CheckpointManager


def fit(
    config: Config,
    run: Path,
    resume: bool = False,
    dataset: Dataset | None = None,
    quiet: bool = False,
    on_epoch: EpochHook | None = None,
    splits: Sequence[Split] = SPLITS,
) -> dict[str, Any]:
    """Trains to the early stop, then evaluates the best epoch on validation and test.

    Args:
      run: the run's directory; new, or with `resume` one that holds a run of the same settings.
      dataset: used instead of reading the configured one.
      quiet: prints nothing and shows no progress bar.
      on_epoch: called after every epoch; what it raises ends the run without a result.
      splits: held-out splits to evaluate; validation alone leaves the test split unread.
    Returns: `{"best_epoch", "best_step", "validation": metrics, "test": metrics, "baselines"}`,
      which is also written to `result.json`.
    Raises ConfigError, DatasetError, RunError, each with what to do about it.
    """
    validate(config)
    say: Callable[[str], None] = (lambda text: None) if quiet else tqdm.write
    run = Path(run)
    problem = load_problem(config, dataset)
    say(problem.dataset.summary())
    programs = compile_programs(problem, splits)
    if "validation" not in programs.evaluators:
        raise DatasetError(
            f"{problem.dataset.source} has no validation interactions, which choose the best "
            "epoch: hold some out, for instance one per user"
        )
    state = new_state(problem)
    if resume:
        check_same_run(problem, run)
    else:
        start_run(problem, run)
    checkpoints = Checkpoints(open_checkpoints(run, "best"), open_checkpoints(run, "last"))
    with checkpoints.best, checkpoints.last:
        progress = Progress()
        if resume:
            state, progress = restore_last(checkpoints, state, run)
            say(f"continuing after epoch {progress.epochs - 1}, step {progress.steps}")
        try:
            say("training; the first epoch takes longer, since it compiles")
            state = train_epochs(
                problem, programs, state, progress, checkpoints, run, say, quiet, on_epoch
            )
        except KeyboardInterrupt:
            say(f"stopped; continue with: python train.py --run {run} --resume")
            raise
        finally:
            checkpoints.best.wait_until_finished()
            checkpoints.last.wait_until_finished()
        say(f"ended; the best epoch by validation {config.train.monitor} is restored")
        result = conclude(problem, programs, state, checkpoints, run)
    for split in ("validation", "test"):
        if split in result:
            rows = {"MMSSL": result[split], **(result["baselines"] if split == "test" else {})}
            say(f"\n{split}, epoch {result['best_epoch']}\n{metric_table(rows)}")
    return result


def start_run(problem: Problem, run: Path) -> None:
    """Makes the run's directory and writes what the run is.

    Raises RunError when there is a run in it.
    """
    if run.exists() and not run.is_dir():
        raise RunError(f"{run} is a file: name a directory with --run")
    if run.exists() and any(run.iterdir()):
        raise RunError(
            f"{run} is not empty: add --resume to continue the run in it, or name another --run"
        )
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / "config.yaml", dump_config(problem.config))
    write_json(run / "dataset.json", dataset_record(problem.dataset))
    write_json(run / "environment.json", environment(problem.devices))


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


def check_same_run(problem: Problem, run: Path) -> None:
    """Raises RunError, with the differences, unless `run` holds this very run."""
    for name in ("config.yaml", "dataset.json"):
        if not (run / name).is_file():
            raise RunError(f"{run / name} is missing: there is no run to resume in {run}")
    differences = config_diff(read_config(run / "config.yaml"), problem.config)
    saved = json.loads((run / "dataset.json").read_text())
    now = dataset_record(problem.dataset)
    if saved["fingerprint"] != now["fingerprint"]:
        differences += [
            f"dataset {key}: {saved.get(key)} in the run, {value} now"
            for key, value in now.items()
            if saved.get(key) != value
        ]
    if differences:
        raise RunError(
            f"cannot resume {run}: it was started with other settings or data\n  "
            + "\n  ".join(differences)
            + "\nTake them back, or start a new run with another --run"
        )
    write_text(run / "config.yaml", dump_config(problem.config))  # its length may have changed


def restore_last(
    checkpoints: Checkpoints, like: TrainState, run: Path
) -> tuple[TrainState, Progress]:
    """State and progress of the last checkpoint; the log is cut back to it.

    A run that died before its first checkpoint starts anew.
    """
    log = run / "metrics.jsonl"
    if checkpoints.last.latest_step() is None:
        keep_records_until(log, 0)
        return like, Progress()
    record = restore_record(checkpoints.last)
    progress = Progress(**record["progress"])
    keep_records_until(log, progress.steps)
    return restore_tree(checkpoints.last, like), progress


def train_epochs(
    problem: Problem,
    programs: Programs,
    state: TrainState,
    progress: Progress,
    checkpoints: Checkpoints,
    run: Path,
    say: Callable[[str], None],
    quiet: bool,
    on_epoch: EpochHook | None = None,
) -> TrainState:
    """Runs epochs until the run is over, saving `last` after each and `best` after the best.

    Raises RunError when a loss is no longer finite; the checkpoints of the epoch before remain.
    """
    config, steps_per_epoch = problem.config, problem.sizes.steps_per_epoch
    evaluate = programs.evaluators["validation"]
    most_steps = config.train.max_steps or config.train.epochs * steps_per_epoch
    bar = tqdm(
        total=most_steps, initial=progress.steps, unit="step", disable=quiet, dynamic_ncols=True
    )
    with bar:
        while not progress.is_over(config):
            bar.set_description(f"epoch {progress.epochs}")
            started = time.perf_counter()
            n_steps = min(steps_per_epoch, most_steps - progress.steps)
            # No array may come to the host by accident while the device works.
            with jax.transfer_guard_device_to_host("disallow"):
                state, metrics = programs.run_steps(state, n_steps)
            losses = {name: float(value) for name, value in jax.device_get(metrics).items()}
            check_finite(losses, progress.epochs, run)
            vectors = programs.embed(state)
            check_finite_vectors(vectors, progress.epochs, run)
            validation = evaluate(*vectors)
            epoch, is_whole = progress.epochs, n_steps == steps_per_epoch
            if is_whole:
                value = validation[config.train.monitor]
                progress = progress.after(value, progress.steps + n_steps)
                is_best = progress.misses == 0
            else:
                # The end of `max_steps` inside an epoch: not an epoch that counts, so a run that is
                # continued repeats it as a whole, and it is the best only if there is no other.
                best_epoch = max(progress.best_epoch, 0)
                progress = progress._replace(steps=progress.steps + n_steps, best_epoch=best_epoch)
                is_best = checkpoints.best.latest_step() is None
            record = {
                "epoch": epoch,
                "step": progress.steps,
                "seconds": round(time.perf_counter() - started, 3),
                **losses,
                **{f"validation/{name}": number for name, number in validation.items()},
            }
            saved = {"progress": progress._asdict(), "validation": validation}
            # The log and `best` are whole before `last` says that this epoch is done; a resumed run
            # cuts the log back to `last`.
            append_record(run / "metrics.jsonl", record)
            if is_best:
                save_checkpoint(checkpoints.best, progress.steps, state, saved)
                checkpoints.best.wait_until_finished()
            if is_whole:
                save_checkpoint(checkpoints.last, progress.steps, state, saved)
            say(epoch_line(record, config.train.monitor, is_best))
            bar.update(n_steps)
            bar.set_postfix(bpr=f"{losses['bpr']:.3f}", loss=f"{losses['generator_loss']:.3f}")
            if on_epoch is not None:
                on_epoch(epoch, validation)
    return state


def check_finite_vectors(vectors: tuple[jax.Array, jax.Array], epoch: int, run: Path) -> None:
    """Raises RunError when an epoch's last update has made an embedding NaN or infinite."""
    finite = all(bool(jnp.all(jnp.isfinite(side))) for side in vectors)
    check_finite({} if finite else {"embeddings": math.nan}, epoch, run)


def check_finite(losses: dict[str, float], epoch: int, run: Path) -> None:
    """Raises DivergedError when a loss is NaN or infinite."""
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        raise DivergedError(
            f"epoch {epoch}: {', '.join(broken)} not finite; the state before this epoch is kept "
            f"in {run / 'checkpoints' / 'last'}. Lower optim.lr, optim.critic_lr or game.weight"
        )


def conclude(
    problem: Problem, programs: Programs, like: TrainState, checkpoints: Checkpoints, run: Path
) -> dict[str, Any]:
    """Restores the best epoch, evaluates it and the baselines, and writes `result.json`."""
    record = restore_record(checkpoints.best)
    vectors = programs.embed(restore_tree(checkpoints.best, like))
    result = {
        "best_epoch": record["progress"]["best_epoch"],
        "best_step": record["progress"]["steps"],
        **{split: evaluate(*vectors) for split, evaluate in programs.evaluators.items()},
        "baselines": evaluate_baselines(problem, programs),
    }
    write_json(run / "result.json", result)
    return result


def evaluate_baselines(problem: Problem, programs: Programs) -> dict[str, dict[str, float]]:
    """Metrics of the popularity and the random ranking on the test split, if there is one."""
    dataset = problem.dataset
    if "test" not in programs.evaluators:
        return {}
    baselines = {
        "popularity": popularity_vectors(dataset.train, dataset.n_users, dataset.n_items),
        "random": random_vectors(problem.config.train.seed, dataset.n_users, dataset.n_items),
    }
    evaluate, dim = programs.evaluators["test"], problem.config.model.dim
    results = {}
    for name, vectors in baselines.items():
        # Zero channels change no score, and vectors of the model's width need no new compilation.
        widths = [(0, 0), (0, max(0, dim - vectors[0].shape[1]))]
        results[name] = evaluate(*(jnp.pad(side, widths) for side in vectors))
    return results
