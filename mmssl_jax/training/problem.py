"""A configured method on a dataset, ready to train and evaluate: devices and inputs."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from mmssl_jax.compilation import keep_compilations
from mmssl_jax.config import Config, ConfigError
from mmssl_jax.data.cold import ColdItems, hold_out_cold_items
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.data.load import load_dataset, with_controls
from mmssl_jax.hosts import join
from mmssl_jax.layout import Layout, make_layout
from mmssl_jax.method import Inputs, Method, State, can_spread
from mmssl_jax.methods import METHODS
from mmssl_jax.parallel import (
    devices_of_all,
    on_all,
    on_processor,
    replicate,
)
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


def abstract_state(problem: Problem) -> TrainState:
    """Shapes and types of a whole state."""
    state: TrainState = jax.eval_shape(lambda inputs: first_state(problem, inputs), problem.inputs)
    return state
