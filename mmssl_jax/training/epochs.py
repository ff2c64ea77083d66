"""The loop over epochs. The host dispatches an epoch before it reads the figures of the last one,
so that the device does not wait while the host logs and saves."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from tqdm import tqdm

from mmssl_jax.checkpoint import save_checkpoint
from mmssl_jax.config import Config
from mmssl_jax.method import Metrics
from mmssl_jax.records.events import WriteEvents
from mmssl_jax.records.log import append_record, epoch_line
from mmssl_jax.training.problem import Problem, Programs, TrainState


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

    def may_end(self, config: Config, n_steps: int) -> bool:
        """Whether one more epoch, of this many steps, can be the last, whatever it brings."""
        return self.after(-math.inf, self.steps + n_steps).is_over(config)


class Checkpoints(NamedTuple):
    """The two checkpoint managers of a run."""

    best: ocp.CheckpointManager
    last: ocp.CheckpointManager


class Outlets(NamedTuple):
    """Where an epoch's figures go: the run's directory and checkpoints, events, and the screen."""

    run: Path
    checkpoints: Checkpoints
    write_events: WriteEvents
    say: Callable[[str], None]
    quiet: bool


class Epoch(NamedTuple):
    """A dispatched epoch, whose figures the device may still be computing."""

    n_steps: int
    state: TrainState  # a copy: the next epoch reuses the original's memory
    metrics: Metrics
    finite: jax.Array
    ranking: jax.Array


def train_epochs(
    problem: Problem,
    programs: Programs,
    state: TrainState,
    progress: Progress,
    outlets: Outlets,
    trial: EpochHook | None = None,
) -> None:
    """Runs epochs until the run is over, saving `last` after each and `best` after the best.

    An epoch is dispatched before the last one's figures are read, unless these may end the run.
    `state` is used up. Raises DivergedError when a loss or an embedding is no longer finite; the
    checkpoints of the epoch before remain.
    """
    config, per_epoch = problem.config, problem.steps_per_epoch
    most_steps = config.train.max_steps or config.train.epochs * per_epoch
    bar = tqdm(
        # Where patience decides, nobody knows the end.
        total=config.train.max_steps or None,
        initial=progress.steps,
        unit="step",
        disable=outlets.quiet or None,  # None: no bar unless a terminal shows it
        dynamic_ncols=True,
    )
    steps, waiting, read_at = progress.steps, None, time.perf_counter()
    with bar:
        while waiting or not progress.is_over(config):
            epoch = None
            if waiting is None or not progress.may_end(config, waiting.n_steps):
                bar.set_description(f"epoch {progress.epochs + bool(waiting)}")
                state, epoch = dispatch_epoch(programs, state, min(per_epoch, most_steps - steps))
                steps += epoch.n_steps
            if waiting:
                # An epoch's time ends when its figures are there, not when the next is dispatched.
                jax.block_until_ready(waiting.ranking)
                seconds, read_at = time.perf_counter() - read_at, time.perf_counter()
                figures = read_figures(problem, programs, waiting, progress.epochs, outlets.run)
                progress = keep_epoch(problem, waiting, figures, progress, seconds, outlets)
                bar.update(waiting.n_steps)
                bar.set_postfix(
                    {
                        name: f"{figures.losses[name]:.3f}"
                        for name in problem.method.WATCHED[:2]
                        if name in figures.losses
                    }
                )
                if trial is not None:
                    trial(figures.number, figures.validation)
            waiting = epoch


def dispatch_epoch(programs: Programs, state: TrainState, n_steps: int) -> tuple[TrainState, Epoch]:
    """Sends an epoch and its validation to the device; returns before they are done."""
    # No array may come to the host by accident while the device works.
    with jax.transfer_guard_device_to_host("disallow"):
        state, metrics = programs.run_epoch(state, n_steps)
        scorer = programs.embed(state)
        finite = jnp.all(
            jnp.stack([jnp.all(jnp.isfinite(part)) for part in jax.tree.leaves(scorer)])
        )
        ranking = programs.evaluators["validation"].start(scorer)
        return state, Epoch(n_steps, programs.copy(state), metrics, finite, ranking)


class Figures(NamedTuple):
    """What an epoch brought: its number, mean losses, and validation metrics."""

    number: int
    losses: dict[str, float]
    validation: dict[str, float]


def read_figures(
    problem: Problem, programs: Programs, epoch: Epoch, number: int, run: Path
) -> Figures:
    """Waits for an epoch's figures. Raises DivergedError if they are not finite."""
    losses = {name: float(value) for name, value in jax.device_get(epoch.metrics).items()}
    advice = ", ".join(problem.method.RATES)
    check_finite(losses, number, run, advice)
    check_finite({} if bool(epoch.finite) else {"embeddings": math.nan}, number, run, advice)
    return Figures(number, losses, programs.evaluators["validation"].finish(epoch.ranking))


def keep_epoch(
    problem: Problem,
    epoch: Epoch,
    figures: Figures,
    progress: Progress,
    seconds: float,
    outlets: Outlets,
) -> Progress:
    """Logs an epoch's figures and saves its state; returns the progress after it."""
    monitor, checkpoints = problem.config.train.monitor, outlets.checkpoints
    is_whole = epoch.n_steps == problem.steps_per_epoch
    if is_whole:
        value = figures.validation[monitor]
        progress = progress.after(value, progress.steps + epoch.n_steps)
        is_best = progress.misses == 0
    else:
        # The end of `max_steps` inside an epoch: not an epoch that counts, so a run that is
        # continued repeats it as a whole, and it is the best only if there is no other.
        best_epoch = max(progress.best_epoch, 0)
        progress = progress._replace(steps=progress.steps + epoch.n_steps, best_epoch=best_epoch)
        is_best = checkpoints.best.latest_step() is None
    record = {
        "epoch": figures.number,
        "step": progress.steps,
        "seconds": round(seconds, 3),
        **figures.losses,
        **{f"validation/{name}": value for name, value in figures.validation.items()},
    }
    saved = {"progress": progress._asdict(), "validation": figures.validation}
    # The log and `best` are whole before `last` says that this epoch is done; a resumed run cuts
    # the log back to `last`.
    append_record(outlets.run / "metrics.jsonl", record)
    outlets.write_events(record)
    if is_best:
        save_checkpoint(checkpoints.best, progress.steps, epoch.state, saved)
        checkpoints.best.wait_until_finished()
    if is_whole:
        save_checkpoint(checkpoints.last, progress.steps, epoch.state, saved)
    outlets.say(epoch_line(record, problem.method.WATCHED, monitor, is_best))
    return progress


def check_finite(losses: dict[str, float], epoch: int, run: Path, advice: str) -> None:
    """Raises DivergedError when a loss is NaN or infinite; `advice` names what to lower."""
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        raise DivergedError(
            f"epoch {epoch}: {', '.join(broken)} not finite; the state before this epoch is kept "
            f"in {run / 'checkpoints' / 'last'}. Lower {advice}"
        )
