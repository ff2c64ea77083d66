"""A configured method on a dataset, ready to train and evaluate: devices, inputs, programs."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, PyTree

from mmssl_jax.compilation import compiler_options, keep_compilations
from mmssl_jax.config import Config, ConfigError
from mmssl_jax.data.cold import ColdItems, hold_out_cold_items
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.data.load import load_dataset, with_controls
from mmssl_jax.digest import digest_words
from mmssl_jax.hosts import join
from mmssl_jax.layout import Layout, lay_out, make_layout, make_whole, places, whole_rows
from mmssl_jax.method import Inputs, Method, Metrics, Scorer, State, Vectors, can_spread
from mmssl_jax.methods import METHODS
from mmssl_jax.parallel import (
    AXIS,
    BY_ROW,
    WHOLE,
    devices_of_all,
    in_float32,
    is_place,
    on_all,
    on_processor,
    place,
    placed,
    replicate,
    spread,
    spread_rows,
)
from mmssl_jax.ranking.evaluate import Evaluator, HeldOut, make_evaluator
from mmssl_jax.ranking.lists import Scoring
from mmssl_jax.sampling import steps_per_epoch

Split = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("validation", "test")


class TrainState(NamedTuple):
    """What a checkpoint holds: the method's own state, the number of steps done, the run's key."""

    step: Int[Array, ""]
    key: Key[Array, ""]
    method: State


class Problem(NamedTuple):
    """Everything about a run that does not change while it runs.

    `dataset` is without the interactions of the cold items, which `cold` holds, and with the
    features that `data.features` says. `inputs` are whole: on all devices, or, where `layout` tells
    how the rows of users and items are spread over these while steps run, on the host.
    """

    config: Config
    dataset: Dataset
    devices: list[jax.Device]
    method: Method
    inputs: Inputs
    cold: ColdItems
    layout: Layout | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch."""
        return steps_per_epoch(len(self.dataset.train), self.config.sampling.batch_size)


def load_problem(config: Config, dataset: Dataset | None = None) -> Problem:
    """Prepares a run on the configured dataset, or on the one given.

    From here on hosts are joined, and what is compiled is kept, as `parallel` says.
    """
    join(config.parallel)
    keep_compilations(config.parallel.compilation_cache)
    kind = METHODS[config.method]
    if dataset is None:
        dataset = load_dataset(config.data, kind.NEEDS_FEATURES)
    else:
        dataset.check(kind.NEEDS_FEATURES)
    dataset = with_controls(dataset, config.data)
    dataset, cold = hold_out_cold_items(dataset, float(config.data.cold_items), config.data.seed)
    if config.sampling.negatives == "trained":
        require_trained_negatives(dataset)
    devices = devices_of_all(config.parallel.devices)
    method = kind.build(config, dataset, len(devices))
    if not spreads_tables(config, len(devices)):
        inputs = replicate(method.inputs(dataset), devices)
        return Problem(config, dataset, devices, method, inputs, cold)
    layout = make_layout(dataset, len(devices))
    with on_processor():  # spread later: no device need have room for all of them
        inputs = jax.device_get(method.inputs(dataset))
    return Problem(config, dataset, devices, method, inputs, cold, layout)


def spreads_tables(config: Config, n_devices: int) -> bool:
    """Whether rows of users and items are spread over the devices, as `parallel.tables` says.

    Raises ConfigError where they shall be, and the method cannot.
    """
    tables, able = config.parallel.tables, can_spread(METHODS[config.method])
    if tables == "sharded" and not able:
        names = ", ".join(name for name, kind in METHODS.items() if can_spread(kind))
        raise ConfigError(
            f"parallel.tables is sharded, which {config.method} cannot; {names} can: use auto or "
            "replicated"
        )
    return able and (tables == "sharded" or (tables == "auto" and n_devices > 1))


def require_trained_negatives(dataset: Dataset) -> None:
    """Raises DatasetError for a user who has every item that anybody has in training."""
    n_trained = len(np.unique(dataset.train[:, 1]))
    degree = np.bincount(dataset.train[:, 0], minlength=dataset.n_users)
    full = np.flatnonzero(degree >= n_trained)
    if len(full):
        raise DatasetError(
            f"sampling.negatives is trained, but user {dataset.user_ids[full[0]]!r} has all "
            f"{n_trained} items that anybody has in training ({len(full)} such users): there is no "
            "negative to draw; use --sampling.negatives all"
        )


def new_state(problem: Problem) -> TrainState:
    """The state before the first step, on all devices: a step's results lie as its arguments do,
    so that the second call finds the first one's compilation. Deterministic in `train.seed`."""
    # Made where it belongs: a copy made later would need room for both.
    start = jax.jit(
        lambda inputs: first_state(problem, inputs), out_shardings=on_all(problem.devices)
    )
    return start(problem.inputs)


def first_state(problem: Problem, inputs: Inputs) -> TrainState:
    """The state before the first step."""
    # Named, since dropout masks may read its words and JAX's default may be set otherwise.
    key = jax.random.key(problem.config.train.seed, impl="threefry2x32")
    # The last of three, as in runs of earlier versions, whose numbers stay what they were.
    run_key = jax.random.split(key, 3)[2]
    return TrainState(jnp.int32(0), run_key, problem.method.init(key, inputs))


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


class Programs(NamedTuple):
    """The compiled parts of a run; each compiles at its first call.

    health: whether each array of a whole state holds finite numbers alone, and its digest.
    """

    training: Training
    health: Callable[[TrainState], tuple[Array, Array]]
    evaluators: dict[str, Evaluator]  # by held-out split that has interactions


def compile_programs(problem: Problem, splits: Sequence[Split] = SPLITS) -> Programs:
    """Training epochs, embedding and evaluation of a problem, on these splits alone."""
    return Programs(
        compile_training(problem),
        jax.jit(lambda state: (finite_arrays(state), digest_words(state))),
        {
            split: split_evaluator(problem, split)
            for split in splits
            if len(problem.dataset.splits[split])
        },
    )


def finite_arrays(tree: PyTree) -> Bool[Array, "L"]:
    """Whether each of the L arrays of a tree holds finite numbers alone; keys and whole numbers
    always do."""
    return jnp.stack(
        [
            jnp.all(jnp.isfinite(leaf)) if jnp.issubdtype(leaf.dtype, jnp.floating) else True
            for leaf in jax.tree.leaves(tree)
        ]
    )


def compile_training(problem: Problem) -> Training:
    """Raises ConfigError when the devices cannot share the batch equally."""
    config, devices = problem.config, problem.devices
    batch_size, n_devices = config.sampling.batch_size, len(devices)
    if batch_size % n_devices:
        raise ConfigError(
            f"sampling.batch_size {batch_size} cannot be shared by {n_devices} devices; "
            f"use a multiple of {n_devices}, or set parallel.devices"
        )
    return whole_training(problem) if problem.layout is None else spread_training(problem)


def whole_training(problem: Problem) -> Training:
    """Training where every device has all rows."""
    method = dataclasses.replace(problem.method, axis=AXIS)  # type: ignore[type-var]
    devices, inputs, transform = problem.devices, problem.inputs, problem.config.parallel.transform
    start = spread(
        lambda state, inputs: state._replace(method=method.start_epoch(state.method, inputs)),
        devices,
        transform,
        (False, False),
        donated=(0,),
    )
    steps = spread(
        lambda state, tally, inputs, n_steps: go_on(method, state, tally, inputs, n_steps),
        devices,
        transform,
        (False, False, False, False),
        donated=(0,),
    )
    numbers = functools.cache(lambda n_steps: replicate(np.int32(n_steps), devices))
    return Training(
        lambda state: state,
        jax.jit(lambda state: jax.tree.map(jnp.copy, state)),
        whole_embedding(problem),
        lambda state: start(state, inputs),
        lambda state, tally, n_steps: steps(state, tally, inputs, numbers(n_steps)),
        replicate(no_tally(problem.method, abstract_state(problem), inputs), devices),
    )


class Spread(NamedTuple):
    """A problem whose rows are spread over its devices: the method as it sees a device's rows, the
    inputs in their places, and the places of the arrays of inputs and states; lay_out and embed as
    in `Training`."""

    method: Any
    inputs: Inputs
    of_inputs: PyTree
    of_state: PyTree
    lay_out: Callable[[TrainState], TrainState]
    embed: Callable[[TrainState], Scorer]


def spread_problem(problem: Problem) -> Spread:
    """Spreads the rows of a problem with a layout."""
    layout, devices = problem.layout, problem.devices
    assert layout is not None
    bound: Any = problem.method
    method = dataclasses.replace(bound, axis=AXIS, nodes=layout.nodes)
    with on_processor():
        inputs = lay_out(problem.inputs, layout, method.ROWS)
    of_inputs, of_state = (places(x, method.ROWS) for x in (inputs, abstract_state(problem)))
    in_place = functools.partial(jax.tree.map, functools.partial(placed, devices), is_leaf=is_place)
    inputs, n_edges = place(inputs, in_place(of_inputs)), method.graph_edges()
    embed = spread_rows(
        lambda state, inputs: method.embed(state.method, inputs),
        devices,
        (of_state, of_inputs),
        Vectors(BY_ROW, BY_ROW),  # type: ignore[arg-type]  # their places
    )
    gather = jax.jit(lambda vectors: whole_rows(vectors, layout), out_shardings=on_all(devices))
    return Spread(
        method,
        inputs,
        of_inputs,
        of_state,
        jax.jit(
            lambda state: lay_out(state, layout, method.ROWS, n_edges),
            out_shardings=in_place(of_state),
        ),
        lambda state: gather(embed(state, inputs)),
    )


def spread_training(problem: Problem) -> Training:
    """Training where the rows of users and items are spread over the devices."""
    layout, devices, like = problem.layout, problem.devices, abstract_state(problem)
    assert layout is not None
    spread = spread_problem(problem)
    method, inputs, of_inputs, of_state = spread[:4]
    start = spread_rows(
        lambda state, inputs: state._replace(method=method.start_epoch(state.method, inputs)),
        devices,
        (of_state, of_inputs),
        of_state,
        donated=(0,),
    )
    steps = spread_rows(
        lambda state, tally, inputs, n_steps: go_on(method, state, tally, inputs, n_steps),
        devices,
        (of_state, WHOLE, of_inputs, WHOLE),
        (of_state, WHOLE),
        donated=(0,),
    )

    def require_spread(state: TrainState) -> TrainState:
        # A whole state might pass for a spread one, where the numbers of rows happen to fit.
        found = jax.tree.map(lambda leaf: leaf.sharding.spec == BY_ROW, state)
        if found != jax.tree.map(lambda x: x == BY_ROW, of_state, is_leaf=is_place):
            raise ValueError("the state is whole: give what `lay_out` makes of it")
        return state

    numbers = functools.cache(lambda n_steps: replicate(np.int32(n_steps), devices))
    return Training(
        spread.lay_out,
        jax.jit(
            lambda state: jax.tree.map(jnp.copy, make_whole(state, like, layout, method.ROWS)),
            out_shardings=on_all(devices),
        ),
        spread.embed,
        lambda state: start(require_spread(state), inputs),
        lambda state, tally, n: steps(require_spread(state), tally, inputs, numbers(n)),
        replicate(no_tally(problem.method, like, problem.inputs), devices),
    )


def abstract_state(problem: Problem) -> TrainState:
    """Shapes and types of a whole state."""
    state: TrainState = jax.eval_shape(lambda inputs: first_state(problem, inputs), problem.inputs)
    return state


def compile_embedding(problem: Problem) -> Callable[[TrainState], Scorer]:
    """A function from a whole state to what ranks, in evaluation mode."""
    if problem.layout is None:
        return whole_embedding(problem)
    spread = spread_problem(problem)
    return lambda state: spread.embed(spread.lay_out(state))


def whole_embedding(problem: Problem) -> Callable[[TrainState], Scorer]:
    """The same where every device has all rows."""
    options = compiler_options(problem.devices[0].platform)
    embed = jax.jit(in_float32(problem.method.embed), compiler_options=options)
    return lambda state: embed(state.method, problem.inputs)


def split_evaluator(problem: Problem, split: Split) -> Evaluator:
    """The evaluator of a split. Raises DatasetError for one without interactions."""
    config, pairs = problem.config, held_out_pairs(problem, split)
    return make_evaluator(pairs, Scoring.of(config), problem.devices, config.parallel.transform)


def held_out_pairs(problem: Problem, split: Split) -> HeldOut:
    """What ranking a split takes; validation items are masked at test time if so configured.

    Raises DatasetError for a split without interactions.
    """
    dataset = problem.dataset
    held_out: np.ndarray = getattr(dataset, split)
    if not len(held_out):
        raise DatasetError(
            f"{dataset.source} has no {split} interactions: there is nothing to evaluate; "
            "hold some out, for instance one per user"
        )
    masks_validation = split == "test" and problem.config.eval.mask == "train_validation"
    also_seen = dataset.validation if masks_validation else None
    return HeldOut(dataset.n_users, dataset.n_items, dataset.train, held_out, also_seen)
