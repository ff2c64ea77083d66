"""The steps of a run: what one does, what an epoch of them brings, and their compiled parts."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from mmssl_jax.method import Inputs, Method, Metrics, Scorer
from mmssl_jax.training.problem import TrainState


class Tally(NamedTuple):
    """What the steps of an epoch have brought so far.

    steps: how many. means: of each metric over them. broken: for each metric the number, in the
    run, of the first step at which it was not finite, or -1.
    """

    steps: Int[Array, ""]
    means: Metrics
    broken: dict[str, Int[Array, ""]]


def no_tally(method: Method, state: TrainState, inputs: Inputs) -> Tally:
    """Before an epoch's first step. The state may be abstract."""
    _, shapes = jax.eval_shape(method.step, state.method, state.key, inputs)
    means = {
        name: jnp.zeros((), jnp.result_type(shape.dtype, jnp.float32))
        for name, shape in shapes.items()
    }
    return Tally(jnp.int32(0), means, {name: jnp.int32(-1) for name in means})


def go_on(
    method: Method, state: TrainState, tally: Tally, inputs: Inputs, n_steps: int | Array
) -> tuple[TrainState, Tally]:
    """`n_steps` more steps of an epoch. In how many parts an epoch is run changes no number: the
    means are running ones."""

    def step(_: Array, so_far: tuple[TrainState, Tally]) -> tuple[TrainState, Tally]:
        state, tally = so_far
        key = jax.random.fold_in(state.key, state.step)
        of_method, metrics = method.step(state.method, key, inputs)
        steps = tally.steps + 1
        means = {m: mean + (metrics[m] - mean) / steps for m, mean in tally.means.items()}
        broken = {
            m: jnp.where((first < 0) & ~jnp.isfinite(metrics[m]), state.step, first)
            for m, first in tally.broken.items()
        }
        return TrainState(state.step + 1, state.key, of_method), Tally(steps, means, broken)

    return jax.lax.fori_loop(0, n_steps, step, (state, tally))


def train_steps(
    method: Method, state: TrainState, inputs: Inputs, n_steps: int
) -> tuple[TrainState, Metrics]:
    """`n_steps` steps; metrics are means over them."""
    state, tally = go_on(method, state, no_tally(method, state, inputs), inputs, n_steps)
    return state, tally.means


def train_epoch(
    method: Method, state: TrainState, inputs: Inputs, n_steps: int
) -> tuple[TrainState, Metrics]:
    """What a method does before an epoch, and then the epoch's steps, or fewer at a run's end."""
    state = state._replace(method=method.start_epoch(state.method, inputs))
    return train_steps(method, state, inputs, n_steps)


class Training(NamedTuple):
    """The compiled parts of training, over all devices. A state given to `start_epoch` and `go_on`
    is donated: its memory becomes that of the new state, and it can be used no more.

    lay_out: a whole state, as checkpoints hold it, where the others want it; the same arrays where
    every device has all rows. make_whole: the whole state of one, a copy. start_epoch: what a
    method does before an epoch. go_on: as the function above, without compiling anew for another
    number of steps. embed: what ranks. no_tally: before an epoch's first step.
    """

    lay_out: Callable[[TrainState], TrainState]
    make_whole: Callable[[TrainState], TrainState]
    embed: Callable[[TrainState], Scorer]
    start_epoch: Callable[[TrainState], TrainState]
    go_on: Callable[[TrainState, Tally, int], tuple[TrainState, Tally]]
    no_tally: Tally

    def steps(self, state: TrainState, n_steps: int) -> tuple[TrainState, Metrics]:
        """`train_steps`."""
        state, tally = self.go_on(state, self.no_tally, n_steps)
        return state, tally.means

    def epoch(self, state: TrainState, n_steps: int) -> tuple[TrainState, Metrics]:
        """`train_epoch`."""
        return self.steps(self.start_epoch(state), n_steps)
