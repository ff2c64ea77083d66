"""The loop over epochs. The host dispatches an epoch before it reads the figures of the last one,
so that the device does not wait while the host logs and saves."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mmssl_jax.checkpoint import save_checkpoint, settle
from mmssl_jax.hosts import agreed, count, is_primary
from mmssl_jax.records.log import append_record, epoch_line
from mmssl_jax.training.divergence import by_name, check_finite
from mmssl_jax.training.part import NOT_BEGUN, Part
from mmssl_jax.training.pieces import Begun, begin_epoch, piece_length, run_pieces
from mmssl_jax.training.problem import Problem, TrainState
from mmssl_jax.training.programs import Programs
from mmssl_jax.training.progress import Outlets, Progress
from mmssl_jax.training.steps import Tally

# Called after every epoch with its number and its validation metrics. What it raises ends the run,
# which can be resumed.
EpochHook = Callable[[int, dict[str, float]], None]


class Epoch(NamedTuple):
    """A dispatched epoch, whose figures the device may still be computing.

    n_sent: those of its steps that this process sent; an earlier one may have done the others.
    state: a whole copy, since the next epoch reuses the original's memory. finite: whether each
    array of the state is, in `array_names`' order, and then the embeddings. words: the state's
    digest.
    """

    n_steps: int
    n_sent: int
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
    start: the state, as `Training.lay_out` makes it, which is used up, the progress, and what is
      done of an epoch.
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
    with bar:
        while waiting or not progress.is_over(config):
            epoch = None
            # While it is not known what a step takes, and where epochs are run in pieces, an
            # epoch's figures are read before the next one is sent.
            reads_first = minutes and (
                not pace or piece_length(minutes, pace, per_epoch) < per_epoch
            )
            if waiting is None or not (reads_first or progress.may_end(config, waiting.n_steps)):
                bar.set_description(f"epoch {progress.epochs + bool(waiting)}")
                # A run that goes on with fewer `max_steps` may be past them within an epoch.
                n_steps = max(part.steps, min(per_epoch, most_steps - steps))
                begun, n_sent = begin_epoch(programs, state, part), n_steps - part.steps
                if waiting is None:
                    begun, pace = run_pieces(
                        problem, programs, begun, (n_steps, pace), progress, outlets
                    )
                state, epoch = dispatch_epoch(programs, begun, n_steps, n_sent)
                steps, part = steps + n_steps, NOT_BEGUN
            if waiting:
                # An epoch's time ends when its figures are there, not when the next is dispatched.
                jax.block_until_ready(waiting.ranking)
                seconds, read_at = time.perf_counter() - read_at, time.perf_counter()
                # Hosts agree on it by way of their devices, which must have nothing else to do.
                if epoch is None or count() == 1:
                    pace = agreed(seconds / max(1, waiting.n_sent))
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


def dispatch_epoch(
    programs: Programs, begun: Begun, n_steps: int, n_sent: int
) -> tuple[TrainState, Epoch]:
    """Sends the rest of an epoch of `n_steps` and its validation to the device; returns before they
    are done."""
    # No array may come to the host by accident while the device works.
    with jax.transfer_guard_device_to_host("disallow"):
        state, tally = programs.training.go_on(begun.state, begun.tally, n_steps - begun.steps)
        scorer, whole = programs.training.embed(state), programs.training.make_whole(state)
        finite, words = programs.health(whole)
        embedded = jnp.all(
            jnp.stack([jnp.all(jnp.isfinite(part)) for part in jax.tree.leaves(scorer)])
        )
        finite = jnp.append(finite, embedded)
        ranking = programs.evaluators["validation"].start(scorer)
        return state, Epoch(n_steps, n_sent, whole, tally, finite, words, ranking)


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
    # On the host first: what is sent to the device now waits for the epoch that it works on.
    *finite, embedded = np.asarray(epoch.finite).tolist()
    arrays = by_name(epoch.state, finite) | {"embeddings": embedded}
    check_finite(problem, part, arrays, progress, outlets)
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
    if is_primary():
        append_record(outlets.run / "metrics.jsonl", record)
        outlets.write_events(record)
    if is_best:
        save_checkpoint(checkpoints.best, progress.steps, epoch.state, saved, epoch.words)
        settle(checkpoints.best, epoch.state)
    if is_whole:
        save_checkpoint(checkpoints.last, progress.steps, epoch.state, saved, epoch.words)
    outlets.say(epoch_line(record, problem.method.WATCHED, monitor, is_best))
    return progress
