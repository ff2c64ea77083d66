"""A configured dataset, ready to train and evaluate: devices, sizes, inputs, programs."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmssl_jax.compilation import compiler_options, keep_compilations
from mmssl_jax.config import Config, ConfigError, DataConfig
from mmssl_jax.data.cold import ColdItems, hold_out_cold_items
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.data.readers import read_dataset
from mmssl_jax.data.synthetic import planted_dataset
from mmssl_jax.parallel import (
    AXIS,
    in_float32,
    local_devices,
    on_all,
    replicate,
    spread,
)
from mmssl_jax.ranking.evaluate import Evaluator, make_evaluator
from mmssl_jax.training.state import (
    Inputs,
    Sizes,
    TrainState,
    init_state,
    make_inputs,
    problem_sizes,
)
from mmssl_jax.training.step import Metrics, forward, train_steps

Split = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("validation", "test")


class Problem(NamedTuple):
    """Everything about a run that does not change while it runs.

    `dataset` is without the interactions of the cold items, which `cold` holds.
    """

    config: Config
    dataset: Dataset
    devices: list[jax.Device]
    sizes: Sizes
    inputs: Inputs
    cold: ColdItems


def load_dataset(config: DataConfig) -> Dataset:
    """Reads or plants the configured dataset.

    Raises DatasetError for a dataset that cannot be used.
    """
    if config.format == "synthetic":
        n_modalities = 3 if "textual" in config.modalities else 2
        dataset = planted_dataset(seed=config.seed, n_modalities=n_modalities)
        unknown = set(config.modalities) - set(dataset.modalities)
        if unknown:
            raise DatasetError(
                f"data.modalities names {sorted(unknown)}; the synthetic dataset has "
                f"{list(dataset.modalities)}"
            )
        if config.modalities:
            kept = {name: dataset.features[name] for name in sorted(set(config.modalities))}
            dataset = dataclasses.replace(dataset, features=kept)
        return dataset
    return read_dataset(config.path, config.format, config.modalities or None)


def require_data(config: Config, run: Path) -> None:
    """Raises DatasetError, with the flag that mends it, when a run's dataset folder has moved."""
    if config.data.format != "synthetic" and not Path(config.data.path).is_dir():
        raise DatasetError(
            f"{config.data.path}: no folder there, which {run} names as its dataset; if it has "
            "moved, give its place with --data.path (train.py) or --data_path (eval.py, report)"
        )


def load_problem(config: Config, dataset: Dataset | None = None) -> Problem:
    """Prepares a run on the configured dataset, or on the one given.

    From here on what is compiled is kept, as `parallel.compilation_cache` says.
    """
    keep_compilations(config.parallel.compilation_cache)
    if dataset is None:
        dataset = load_dataset(config.data)
    else:
        dataset.check()
    dataset, cold = hold_out_cold_items(dataset, float(config.data.cold_items), config.data.seed)
    devices = local_devices(config.parallel.devices)
    sizes = problem_sizes(dataset, config, len(devices))
    inputs = replicate(make_inputs(dataset, config), devices)
    return Problem(config, dataset, devices, sizes, inputs, cold)


def new_state(problem: Problem) -> TrainState:
    """The state before the first step, on all devices: a step's results lie as its arguments do,
    so that the second call finds the first one's compilation."""
    init = jax.jit(
        lambda inputs: init_state(inputs, problem.config, problem.sizes),
        out_shardings=on_all(problem.devices),  # a copy made later would be one too many
    )
    return init(problem.inputs)


class Programs(NamedTuple):
    """The compiled parts of a run; each compiles at its first call."""

    run_steps: Callable[[TrainState, int], tuple[TrainState, Metrics]]
    embed: Callable[[TrainState], tuple[jax.Array, jax.Array]]
    copy: Callable[[TrainState], TrainState]
    evaluators: dict[str, Evaluator]  # by held-out split that has interactions


def compile_programs(problem: Problem, splits: Sequence[Split] = SPLITS) -> Programs:
    """Training steps, embedding and evaluation of a problem, on these splits alone."""
    return Programs(
        compile_steps(problem),
        compile_embedding(problem),
        jax.jit(lambda state: jax.tree.map(jnp.copy, state)),
        {
            split: split_evaluator(problem, split)
            for split in splits
            if len(problem.dataset.splits[split])
        },
    )


def compile_steps(problem: Problem) -> Callable[[TrainState, int], tuple[TrainState, Metrics]]:
    """A function `(state, n_steps) -> (state, mean metrics)` over all devices.

    It compiles once for each number of steps: an epoch's, and that of a last, shorter one. The
    state is donated: its memory becomes that of the new state, and it can be used no more.
    Raises ConfigError when the devices cannot share the batch equally.
    """
    config, sizes = problem.config, problem.sizes
    batch_size, n_devices = config.sampling.batch_size, len(problem.devices)
    if batch_size % n_devices:
        raise ConfigError(
            f"sampling.batch_size {batch_size} cannot be shared by {n_devices} devices; "
            f"use a multiple of {n_devices}, or set parallel.devices"
        )
    by_length: dict[int, Callable] = {}

    def run(state: TrainState, n_steps: int) -> tuple[TrainState, Metrics]:
        if n_steps not in by_length:
            by_length[n_steps] = spread(
                lambda state, inputs: train_steps(state, inputs, config, sizes, n_steps, AXIS),
                problem.devices,
                config.parallel.transform,
                (False, False),
                donated=(0,),
            )
        return by_length[n_steps](state, problem.inputs)

    return run


def compile_embedding(problem: Problem) -> Callable[[TrainState], tuple[jax.Array, jax.Array]]:
    """A function from a state to the final user and item embeddings, in evaluation mode."""
    config, sizes = problem.config, problem.sizes

    @functools.partial(jax.jit, compiler_options=compiler_options(problem.devices[0].platform))
    @in_float32
    def embed(generator: dict, learned: dict, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
        embeddings = forward(generator, learned, inputs, config, sizes, None)
        return embeddings.user, embeddings.item

    return lambda state: embed(state.generator, state.learned, problem.inputs)


def split_evaluator(problem: Problem, split: Split) -> Evaluator:
    """The evaluator of a split; validation items are masked at test time if so configured.

    Raises DatasetError for a split without interactions.
    """
    dataset, config = problem.dataset, problem.config.eval
    held_out: np.ndarray = getattr(dataset, split)
    if not len(held_out):
        raise DatasetError(
            f"{dataset.source} has no {split} interactions: there is nothing to evaluate; "
            "hold some out, for instance one per user"
        )
    masks_validation = split == "test" and config.mask == "train_validation"
    return make_evaluator(
        dataset.train,
        held_out,
        dataset.n_users,
        dataset.n_items,
        config.ks,
        problem.devices,
        problem.config.parallel.transform,
        block_users=config.block_users,
        block_items=config.block_items,
        precision=problem.config.precision,
        also_seen=dataset.validation if masks_validation else None,
    )
