"""The loop over epochs. The host dispatches an epoch before it reads the figures of the last one,
so that the device does not wait while the host logs and saves."""

import math
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from tqdm import tqdm

from mmssl_jax.checkpoint import save_checkpoint, settle
from mmssl_jax.config import Config, flatten
from mmssl_jax.digest import array_names
from mmssl_jax.records.events import WriteEvents
from mmssl_jax.records.log import append_record, epoch_line
from mmssl_jax.training.pieces import NOT_BEGUN, Part, piece_length
from mmssl_jax.training.problem import Problem, Programs, Tally, TrainState


class RunError(RuntimeError):
    """A run that cannot start, continue or go on; the message says what to do."""


class DivergedError(RunError):
    """A loss, a parameter or an embedding is no longer finite."""


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
    """Where an epoch's figures go: the run's directory and checkpoints, events, and the screen.

    settings: of the run, which each record holds.
    """

    run: Path
    settings: dict[str, Any]
    checkpoints: Checkpoints
    write_events: WriteEvents
    say: Callable[[str], None]
    quiet: bool


class Begun(NamedTuple):
    """An epoch that is under way; `steps` have been sent to the device."""

    state: TrainState
    tally: Tally
    steps: int


class Epoch(NamedTuple):
    """A dispatched epoch, whose figures the device may still be computing.

    state: a copy, since the next epoch reuses the original's memory. finite: whether each array of
    the state is, in `array_names`' order, and then the embeddings. words: the state's digest.
    """

    n_steps: int
    state: TrainState
    tally: Tally
    finite: jax.Array
    words: jax.Array
    ranking: jax.Array


def train_epochs(
    problem: Problem,
    programs: Programs,
    start: tuple[TrainState, Progress, Part],
    outlets: Outlets,
    trial: EpochHook | None = None,
) -> None:
    """Runs epochs until the run is over, saving `last` after each and `best` after the best; within
    an epoch that takes long, `last` every `train.checkpoint_minutes`.

    An epoch is dispatched before the last one's figures are read, unless these may end the run, or
    it takes so long that it is run in pieces.
    start: the state, which is used up, the progress, and what is done of an epoch.
    Raises DivergedError when a loss, a parameter or an embedding is no longer finite; the
    checkpoints before it remain.
    """
    state, progress, part = start
    config, per_epoch = problem.config, problem.steps_per_epoch
    most_steps = config.train.max_steps or config.train.epochs * per_epoch
    minutes = config.train.checkpoint_minutes
    bar = tqdm(
        # Where patience decides, nobody knows the end.
        total=config.train.max_steps or None,
        initial=progress.steps + part.steps,
        unit="step",
        disable=outlets.quiet or None,  # None: no bar unless a terminal shows it
        dynamic_ncols=True,
    )
    steps, waiting, read_at = progress.steps, None, time.perf_counter()
    pace = 0.0  # seconds a step, once known
    n_before = 0  # steps of the epoch under way that an earlier process has done
    with bar:
        while waiting or not progress.is_over(config):
            epoch = None
            in_pieces = piece_length(minutes, pace, per_epoch) < per_epoch
            if waiting is None or not (in_pieces or progress.may_end(config, waiting.n_steps)):
                bar.set_description(f"epoch {progress.epochs + bool(waiting)}")
                # A run that goes on with fewer `max_steps` may be past them within an epoch.
                n_steps = max(part.steps, min(per_epoch, most_steps - steps))
                begun, n_before = begin_epoch(programs, state, part), part.steps
                if waiting is None:
                    begun, pace = run_pieces(
                        problem, programs, begun, (n_steps, pace), progress, outlets
                    )
                state, epoch = dispatch_epoch(programs, begun, n_steps)
                steps, part = steps + n_steps, NOT_BEGUN
            if waiting:
                # An epoch's time ends when its figures are there, not when the next is dispatched.
                jax.block_until_ready(waiting.ranking)
                seconds, read_at = time.perf_counter() - read_at, time.perf_counter()
                pace = seconds / max(1, waiting.n_steps - n_before)
                figures = read_figures(problem, programs, waiting, progress, outlets)
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


def begin_epoch(programs: Programs, state: TrainState, part: Part) -> Begun:
    """An epoch before its first step, or where the checkpoint of a part of it left it."""
    training = programs.training
    if not part.steps:
        return Begun(training.start_epoch(state), training.no_tally, 0)
    return Begun(state, part.tally(training.no_tally), part.steps)


def run_pieces(
    problem: Problem,
    programs: Programs,
    begun: Begun,
    length: tuple[int, float],
    progress: Progress,
    outlets: Outlets,
) -> tuple[Begun, float]:
    """Runs all but the last piece of an epoch that takes long, and nothing of a shorter one but two
    steps to learn what it is.

    length: the epoch's steps, and the seconds of one, 0 if not known.
    Returns: where the epoch is then, and the seconds of a step. Raises DivergedError.
    """
    (n_steps, pace), minutes = length, problem.config.train.checkpoint_minutes
    saved_at, is_first = time.perf_counter(), True
    while minutes and begun.steps < n_steps - 2:
        # The first step compiles, and the second one tells what a step takes.
        n = piece_length(minutes, pace, n_steps - begun.steps) if pace else 1
        if n >= n_steps - begun.steps:
            break
        started = time.perf_counter()
        state, tally = programs.training.go_on(begun.state, begun.tally, n)
        jax.block_until_ready(tally)
        if pace or not is_first:
            pace = (time.perf_counter() - started) / n
        begun, is_first = Begun(state, tally, begun.steps + n), False
        check_finite(problem, Part.of(tally), {}, progress, outlets)
        if time.perf_counter() - saved_at >= 60 * minutes:
            save_part(problem, programs, begun, progress, outlets)
            saved_at = time.perf_counter()
    return begun, pace


def save_part(
    problem: Problem, programs: Programs, begun: Begun, progress: Progress, outlets: Outlets
) -> None:
    """Saves the state within an epoch as `last`. Raises DivergedError rather than save what is not
    finite."""
    part, (finite, words) = Part.of(begun.tally), programs.health(begun.state)
    check_finite(problem, part, by_name(begun.state, finite), progress, outlets)
    record = {"progress": progress._asdict(), "settings": outlets.settings, "part": part._asdict()}
    last, step = outlets.checkpoints.last, progress.steps + begun.steps
    # A copy, since the next steps reuse the original's memory.
    save_checkpoint(last, step, programs.copy(begun.state), record, words)


def by_name(state: TrainState, finite: jax.Array) -> dict[str, bool]:
    """{array's name: whether it is finite}."""
    return dict(zip(array_names(state), np.asarray(finite).tolist(), strict=True))


def dispatch_epoch(programs: Programs, begun: Begun, n_steps: int) -> tuple[TrainState, Epoch]:
    """Sends the rest of an epoch of `n_steps` and its validation to the device; returns before they
    are done."""
    # No array may come to the host by accident while the device works.
    with jax.transfer_guard_device_to_host("disallow"):
        state, tally = programs.training.go_on(begun.state, begun.tally, n_steps - begun.steps)
        scorer = programs.embed(state)
        finite, words = programs.health(state)
        embedded = jnp.all(
            jnp.stack([jnp.all(jnp.isfinite(part)) for part in jax.tree.leaves(scorer)])
        )
        finite = jnp.append(finite, embedded)
        ranking = programs.evaluators["validation"].start(scorer)
        return state, Epoch(n_steps, programs.copy(state), tally, finite, words, ranking)


class Figures(NamedTuple):
    """What an epoch brought: its number, mean losses, and validation metrics."""

    number: int
    losses: dict[str, float]
    validation: dict[str, float]


def read_figures(
    problem: Problem, programs: Programs, epoch: Epoch, progress: Progress, outlets: Outlets
) -> Figures:
    """Waits for an epoch's figures. Raises DivergedError if they are not finite."""
    part = Part.of(epoch.tally)
    arrays = by_name(epoch.state, epoch.finite[:-1])
    check_finite(problem, part, arrays | {"embeddings": bool(epoch.finite[-1])}, progress, outlets)
    validation = programs.evaluators["validation"].finish(epoch.ranking)
    return Figures(progress.epochs, part.means, validation)


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
    saved = {
        "progress": progress._asdict(),
        "validation": figures.validation,
        "settings": outlets.settings,
    }
    # The log and `best` are whole before `last` says that this epoch is done; a resumed run cuts
    # the log back to `last`.
    append_record(outlets.run / "metrics.jsonl", record)
    outlets.write_events(record)
    if is_best:
        save_checkpoint(checkpoints.best, progress.steps, epoch.state, saved, epoch.words)
        settle(checkpoints.best, epoch.state)
    if is_whole:
        save_checkpoint(checkpoints.last, progress.steps, epoch.state, saved, epoch.words)
    outlets.say(epoch_line(record, problem.method.WATCHED, monitor, is_best))
    return progress


def check_finite(
    problem: Problem,
    part: Part,
    arrays: Mapping[str, bool],
    progress: Progress,
    outlets: Outlets,
) -> None:
    """Raises DivergedError, naming what was not finite first, and what is kept.

    part: the epoch's steps. arrays: {name: whether it is finite} of the state after them.
    """
    at = {name: step for name, step in part.broken.items() if step >= 0}
    broken = [name for name, is_finite in arrays.items() if not is_finite]
    if at:
        first = min(at.values())
        names = [name for name, step in at.items() if step == first]
        what = f"step {first + 1}: {', '.join(names)} not finite"
    elif broken:
        what = f"after step {progress.steps + part.steps}: {broken[0]} not finite"
        what += f" ({len(broken)} such arrays)" if len(broken) > 1 else ""
    else:
        return
    kept = outlets.checkpoints.last.latest_step()
    rates = problem.method.RATES
    command = f"python train.py --run {shlex.quote(str(outlets.run))}"
    if kept is None:
        advice = "nothing had been saved yet"
    else:
        rate = next((name for name in rates if name.startswith("optim.")), None)
        changed = "" if rate is None else f" --{rate} {flatten(problem.config)[rate] / 10:.3g}"
        advice = f"the state after step {kept} is kept; go on from it: {command} --resume{changed}"
    raise DivergedError(
        f"epoch {progress.epochs}, {what}; {advice}. Lower {', '.join(rates)}, or look at the "
        "features' scale (python -m mmssl_jax.data.check DIR)"
    )
