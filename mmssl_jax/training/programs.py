"""The compiled parts of a run: steps, embedding, evaluation of its splits."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from mmssl_jax.compilation import compiler_options
from mmssl_jax.config import ConfigError
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.digest import digest_words
from mmssl_jax.method import Scorer
from mmssl_jax.parallel import (
    AXIS,
    in_float32,
    replicate,
    spread,
)
from mmssl_jax.ranking.evaluate import Evaluator, HeldOut, make_evaluator
from mmssl_jax.ranking.lists import Scoring
from mmssl_jax.training.problem import SPLITS, Problem, Split, TrainState, abstract_state
from mmssl_jax.training.spread import spread_problem, spread_training
from mmssl_jax.training.steps import Training, go_on, no_tally


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
