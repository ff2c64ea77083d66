"""Tiny problems that several tests share."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import Config, override
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.data.synthetic import Plan, planted_dataset
from mmssl_jax.graph.rows import BatchEdges, InteractionRows, batch_edges, interaction_rows
from mmssl_jax.methods.mmssl import MMSSL
from mmssl_jax.methods.mmssl.config import MMSSLConfig, preset_config
from mmssl_jax.methods.mmssl.learned_graphs import empty_edges
from mmssl_jax.methods.mmssl.state import (
    Inputs,
    State,
    critic_optimizer,
    initial_learned_graph,
)
from mmssl_jax.optimizers import adamw
from mmssl_jax.training import loop
from mmssl_jax.training.problem import Problem, TrainState, new_state
from mmssl_jax.training.programs import Programs, compile_programs

# --- A planted dataset small enough to train in a second, for tests of whole runs ---

PRESETS = ("paper", "released")
STEPS = 5  # per epoch
CHANGES = {
    "data.format": "synthetic",
    "model.dim": 8,
    "model.heads": 2,
    "structure.k": 3,
    "structure.block_users": 16,
    "critic.hidden": (8, 4),
    "sampling.batch_size": 48,
    "train.epochs": 3,
    "eval.ks": (5, 20),
    "eval.block_users": 16,
    "optim.lr": 0.01,  # at which later epochs are better
    "parallel.devices": 1,
}


def tiny_config(preset: str = "paper", changes: Mapping[str, Any] | None = None) -> MMSSLConfig:
    """A preset at tiny sizes; the released one learns edges, as it does on a large catalogue."""
    by_rate = {"structure.k_rate": 0.1} if preset == "released" else {}
    return override(preset_config(preset), {**CHANGES, **by_rate, **(changes or {})})


def tiny_dataset(seed: int = 0) -> Dataset:
    return planted_dataset(seed=seed, n_users=60, n_items=40, plan=Plan(n_topics=8, width=6))


def partial_dataset() -> Dataset:
    """Some items lack a modality, some lack both, and user 3 has no item with `visual`; in place of
    features that are not there are large numbers, which nothing may read."""
    plain = tiny_dataset()
    present = np.random.default_rng(5).random((2, plain.n_items)) < 0.6
    present[1, plain.train[plain.train[:, 0] == 3, 1]] = False
    presence = dict(zip(plain.modalities, present, strict=True))
    features = {
        m: np.where(presence[m][:, None], x, np.float32(1e3)) for m, x in plain.features.items()
    }
    return dataclasses.replace(plain, features=features, presence=presence)


def write_folder(dataset: Dataset, folder: Path) -> Path:
    """Writes a dataset in MMRec's layout."""
    folder.mkdir(parents=True)
    lines = ["userID\titemID\tx_label"]
    for label, edges in enumerate(dataset.splits.values()):
        lines += [f"{user}\t{item}\t{label}" for user, item in edges.tolist()]
    (folder / "tiny.inter").write_text("\n".join(lines) + "\n")
    for name, features in dataset.features.items():
        np.save(folder / f"{name}_feat.npy", features)
    return folder


def flags(changes: Mapping[str, Any]) -> list[str]:
    """The same settings as command line flags."""
    return [
        f"--{key}={list(value) if isinstance(value, tuple) else value}"
        for key, value in changes.items()
    ]


def share_programs(patch: pytest.MonkeyPatch) -> None:
    """Lets runs of one process that differ in their length alone share what they compile."""

    def key_of(problem: Problem) -> tuple[Config, str]:
        length = {"train.epochs": 1, "train.max_steps": 0}
        return override(problem.config, length), problem.dataset.fingerprint()

    def shared(problem: Problem) -> tuple[Programs, TrainState]:
        key = key_of(problem)
        if key not in _compiled:
            _compiled[key] = compile_programs(problem), new_state(problem)
        return _compiled[key]

    def on_splits(problem: Problem, splits: tuple[str, ...]) -> Programs:
        programs = shared(problem)[0]
        evaluators = {name: e for name, e in programs.evaluators.items() if name in splits}
        return programs._replace(evaluators=evaluators)

    patch.setattr(loop, "compile_programs", on_splits)
    # A run uses its state up.
    patch.setattr(loop, "new_state", lambda problem: jax.tree.map(jnp.copy, shared(problem)[1]))


_compiled: dict[tuple[Config, str], tuple[Programs, TrainState]] = {}


# --- A few users and items, whose interactions are known one by one, for tests of a step ---

N_USERS, N_ITEMS = 9, 23
# The structured forms meet the dense ones to this relative error.
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
# For tests that compile for seconds: float64 tells more, so float32 is left to the slow ones.
PRECISIONS = [pytest.param("float32", marks=pytest.mark.slow), "float64"]

STEP = {
    "model.dim": 8,
    "model.heads": 2,
    "critic.hidden": (12, 6),
    "game.block_items": 7,  # four blocks, the last one ragged
    "structure.k": 3,
    "structure.block_users": 4,
    "sampling.batch_size": 6,
}


@contextmanager
def precision(name: str) -> Iterator[Any]:
    """Arrays made inside have this float type; yields it."""
    with jax.enable_x64(name == "float64"):
        yield jnp.dtype(name)


def interaction_matrix(
    seed: int = 0, n_users: int = N_USERS, n_items: int = N_ITEMS, density: float = 0.25
) -> np.ndarray:
    """0/1 `[U, I]`: user 0 has no interaction, user 1 one, user 2 all but two, the rest some."""
    rng = np.random.default_rng(seed)
    matrix = rng.random((n_users, n_items)) < density
    matrix[np.arange(n_users), rng.integers(n_items, size=n_users)] = True
    matrix[0] = False
    matrix[1] = np.arange(n_items) == rng.integers(n_items)
    matrix[2] = ~np.isin(np.arange(n_items), rng.permutation(n_items)[:2])
    return matrix.astype(np.int32)


def edge_array(matrix: np.ndarray) -> np.ndarray:
    """The `[E, 2]` pairs of a 0/1 matrix."""
    return np.argwhere(matrix).astype(np.int32)


def rows_of(matrix: np.ndarray) -> InteractionRows:
    """Compressed rows of a 0/1 matrix."""
    return interaction_rows(edge_array(matrix), *matrix.shape)


def edges_of_batch(matrix: np.ndarray, users: np.ndarray, padding: int = 5) -> BatchEdges:
    """The batch's interactions, with some padding behind."""
    length = int(matrix[users].sum()) + padding
    return batch_edges(rows_of(matrix), jnp.asarray(users, jnp.int32), length)


def propagation_matrix(matrix: np.ndarray, normalization: str) -> np.ndarray:
    """Weights `[receivers, senders]` of a 0/1 (or count) matrix of the same shape, by loops."""
    weights = np.zeros(matrix.shape)
    for r, s in np.argwhere(matrix):
        d_r, d_s = matrix[r].sum(), matrix[:, s].sum()
        weight = {"receiver": d_r**-0.5, "symmetric": (d_r * d_s) ** -0.5, "mean": 1 / d_r}
        weights[r, s] = matrix[r, s] * weight[normalization]
    return weights


def assert_close(actual: Any, expected: Any, tolerance: float, floor: float = 0.0) -> None:
    """Every leaf differs by at most `tolerance` of its largest entry, or of what `floor` says."""
    for path, error in _relative_errors(actual, expected, floor):
        assert error <= tolerance, f"{path}: relative error {error:.1e}"


def relative_error(actual: Any, expected: Any, floor: float = 0.0) -> float:
    """The largest difference of any leaf, as a share of the leaf's largest entry.

    floor: share of the whole tree's largest entry that a leaf's scale is at least; for leaves whose
    true value is zero.
    """
    return float(np.max([error for _, error in _relative_errors(actual, expected, floor)]))


def _relative_errors(actual: Any, expected: Any, floor: float) -> list[tuple[str, float]]:
    actual, expected = jax.tree.map(np.asarray, (actual, expected))
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    assert largest > 0
    errors = []
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, wanted), got in zip(paths, jax.tree.leaves(actual), strict=True):
        scale = max(np.abs(wanted).max(), floor * largest)
        error = np.abs(got - wanted).max() / scale if scale else np.abs(got).max()
        errors.append((jax.tree_util.keystr(path), float(error)))
    return errors


def step_dataset(n_modalities: int = 2, seed: int = 0) -> Dataset:
    """`interaction_matrix` as training split, modalities m0, m1, .. of different widths."""
    rng = np.random.default_rng(seed + 100)
    nothing = np.zeros((0, 2), np.int32)
    return Dataset(
        name="tiny",
        source="tests",
        user_ids=np.arange(N_USERS),
        item_ids=np.arange(N_ITEMS),
        train=edge_array(interaction_matrix(seed)),
        validation=nothing,
        test=nothing,
        features={
            f"m{m}": rng.normal(size=(N_ITEMS, 4 + m)).astype(np.float32)
            for m in range(n_modalities)
        },
    )


def step_config(preset: str = "paper", **changes: Any) -> MMSSLConfig:
    """A preset at the sizes of `step_dataset`; `changes` name settings with `__` for the dot."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return override(preset_config(preset), {**STEP, **dotted})


class StepProblem(NamedTuple):
    """MMSSL on the dataset of `step_dataset`, before its first step."""

    setup: MMSSL
    dataset: Dataset
    inputs: Inputs
    state: State

    @property
    def config(self) -> MMSSLConfig:
        return self.setup.config

    def with_config(self, config: MMSSLConfig) -> "StepProblem":
        """The same inputs and state under other settings."""
        return self._replace(setup=MMSSL.build(config, self.dataset))


def step_problem(config: MMSSLConfig, n_modalities: int = 2, dtype: Any = "float32") -> StepProblem:
    """MMSSL on the dataset of a few users with random parameters, none of which is special."""
    dataset, rng = step_dataset(n_modalities), np.random.default_rng(5)
    setup = MMSSL.build(config, dataset)
    inputs = setup.inputs(dataset)
    shapes = jax.eval_shape(lambda inputs: setup.init(jax.random.key(0), inputs), inputs)

    def random_parameters(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(0.4 * rng.normal(size=leaf.shape), dtype)

    generator, critic = jax.tree.map(random_parameters, (shapes.generator, shapes.critic))
    graph = initial_learned_graph(setup, inputs)
    state = State(
        step=jnp.int32(0),
        generator=generator,
        critic=critic,
        generator_opt=adamw(config.optim, setup.sizes.steps_per_epoch).init(generator),
        critic_opt=None if critic is None else critic_optimizer(config).init(critic),
        learned=dict.fromkeys(inputs.features, graph),
        pending={m: empty_edges(setup.sizes.pending_edges) for m in shapes.pending},
    )
    return StepProblem(setup, dataset, inputs, state)
