"""Epochs that take long are run in pieces, between which the host can save, and be stopped."""

import time
from typing import NamedTuple

import jax
import numpy as np

from mmssl_jax.checkpoint import save_checkpoint
from mmssl_jax.hosts import agreed
from mmssl_jax.training.divergence import by_name, check_finite
from mmssl_jax.training.part import Part
from mmssl_jax.training.problem import Problem, TrainState
from mmssl_jax.training.programs import Programs
from mmssl_jax.training.progress import Outlets, Progress
from mmssl_jax.training.steps import Tally

AT_MOST = 20.0  # seconds of a piece: less than clusters leave a process after SIGTERM


class Begun(NamedTuple):
    """An epoch that is under way; `steps` have been sent to the device."""

    state: TrainState
    tally: Tally
    steps: int


def piece_length(minutes: float, seconds: float, n_steps: int) -> int:
    """Steps of a piece: all of a short rest of an epoch, else as many as take AT_MOST seconds, or
    the time between two checkpoints if that is shorter.

    minutes: between checkpoints, 0 for none within an epoch. seconds: of a step, 0 if not known.
    """
    longest = min(AT_MOST, 60 * minutes)
    if not minutes or not seconds or n_steps * seconds <= longest:
        return n_steps
    return max(1, int(longest / seconds))


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
            pace = agreed((time.perf_counter() - started) / n)
        begun, is_first = Begun(state, tally, begun.steps + n), False
        check_finite(problem, Part.of(tally), {}, progress, outlets)
        if agreed(time.perf_counter() - saved_at >= 60 * minutes):
            save_part(problem, programs, begun, progress, outlets)
            saved_at = time.perf_counter()
    return begun, pace


def save_part(
    problem: Problem, programs: Programs, begun: Begun, progress: Progress, outlets: Outlets
) -> None:
    """Saves the state within an epoch as `last`. Raises DivergedError rather than save what is not
    finite."""
    # A copy, since the next steps reuse the original's memory.
    whole = programs.training.make_whole(begun.state)
    part, (finite, words) = Part.of(begun.tally), programs.health(whole)
    check_finite(problem, part, by_name(whole, np.asarray(finite).tolist()), progress, outlets)
    record = {"progress": progress._asdict(), "settings": outlets.settings, "part": part._asdict()}
    last, step = outlets.checkpoints.last, progress.steps + begun.steps
    save_checkpoint(last, step, whole, record, words)
