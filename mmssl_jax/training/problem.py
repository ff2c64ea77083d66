"""A configured method on a dataset, ready to train and evaluate: devices, inputs, programs."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from mmssl_jax.compilation import compiler_options, keep_compilations
from mmssl_jax.config import Config, ConfigError
from mmssl_jax.data.cold import ColdItems, hold_out_cold_items
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.data.load import load_dataset, with_controls
from mmssl_jax.method import Inputs, Method, Metrics, Scorer, State
from mmssl_jax.methods import METHODS
from mmssl_jax.parallel import AXIS, in_float32, local_devices, on_all, replicate, spread
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
    features that `data.features` says.
    """

    config: Config
    dataset: Dataset
    devices: list[jax.Device]
    method: Method
    inputs: Inputs
    cold: ColdItems

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch."""
        return steps_per_epoch(len(self.dataset.train), self.config.sampling.batch_size)


def load_problem(config: Config, dataset: Dataset | None = None) -> Problem:
    """Prepares a run on the configured dataset, or on the one given.

    From here on what is compiled is kept, as `parallel.compilation_cache` says.
    """
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
    devices = local_devices(config.parallel.devices)
    method = kind.build(config, dataset, len(devices))
    inputs = replicate(method.inputs(dataset), devices)
    return Problem(config, dataset, devices, method, inputs, cold)


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

    def start(inputs: Inputs) -> TrainState:
        # Named, since dropout masks may read its words and JAX's default may be set otherwise.
        key = jax.random.key(problem.config.train.seed, impl="threefry2x32")
        # The last of three, as in runs of earlier versions, whose numbers stay what they were.
        run_key = jax.random.split(key, 3)[2]
        return TrainState(jnp.int32(0), run_key, problem.method.init(key, inputs))

    # Made where it belongs: a copy made later would need room for both.
    return jax.jit(start, out_shardings=on_all(problem.devices))(problem.inputs)


def train_steps(
    method: Method, state: TrainState, inputs: Inputs, n_steps: int
) -> tuple[TrainState, Metrics]:
    """`n_steps` steps as one scan; metrics are means over them."""

    def step(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        of_method, metrics = method.step(state.method, key, inputs)
        return TrainState(state.step + 1, state.key, of_method), metrics

    state, metrics = jax.lax.scan(step, state, length=n_steps)
    return state, jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)


def train_epoch(
    method: Method, state: TrainState, inputs: Inputs, n_steps: int
) -> tuple[TrainState, Metrics]:
    """What a method does before an epoch, and then the epoch's steps, or fewer at a run's end."""
    state = state._replace(method=method.start_epoch(state.method, inputs))
    return train_steps(method, state, inputs, n_steps)


class Programs(NamedTuple):
    """The compiled parts of a run; each compiles at its first call."""

    run_epoch: Callable[[TrainState, int], tuple[TrainState, Metrics]]
    embed: Callable[[TrainState], Scorer]
    copy: Callable[[TrainState], TrainState]
    evaluators: dict[str, Evaluator]  # by held-out split that has interactions


def compile_programs(problem: Problem, splits: Sequence[Split] = SPLITS) -> Programs:
    """Training epochs, embedding and evaluation of a problem, on these splits alone."""
    return Programs(
        compile_training(problem),
        compile_embedding(problem),
        jax.jit(lambda state: jax.tree.map(jnp.copy, state)),
        {
            split: split_evaluator(problem, split)
            for split in splits
            if len(problem.dataset.splits[split])
        },
    )


TrainingPart = Callable[[Method, TrainState, Inputs, int], tuple[TrainState, Metrics]]


def compile_training(
    problem: Problem, part: TrainingPart = train_epoch
) -> Callable[[TrainState, int], tuple[TrainState, Metrics]]:
    """A function `(state, n_steps) -> (state, mean metrics)` over all devices.

    It compiles once for each number of steps: an epoch's, and that of a last, shorter one. The
    state is donated: its memory becomes that of the new state, and it can be used no more.
    part: `train_epoch`, or `train_steps` for steps alone.
    Raises ConfigError when the devices cannot share the batch equally.
    """
    config, devices = problem.config, problem.devices
    batch_size, n_devices = config.sampling.batch_size, len(devices)
    if batch_size % n_devices:
        raise ConfigError(
            f"sampling.batch_size {batch_size} cannot be shared by {n_devices} devices; "
            f"use a multiple of {n_devices}, or set parallel.devices"
        )
    method = dataclasses.replace(problem.method, axis=AXIS)  # type: ignore[type-var]
    by_length: dict[int, Callable[..., tuple[TrainState, Metrics]]] = {}

    def run(state: TrainState, n_steps: int) -> tuple[TrainState, Metrics]:
        if n_steps not in by_length:
            by_length[n_steps] = spread(
                lambda state, inputs: part(method, state, inputs, n_steps),
                devices,
                config.parallel.transform,
                (False, False),
                donated=(0,),
            )
        return by_length[n_steps](state, problem.inputs)

    return run


def compile_embedding(problem: Problem) -> Callable[[TrainState], Scorer]:
    """A function from a state to what ranks, in evaluation mode."""
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
