"""Tiny problems and dense references that several tests share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmssl_jax.config import Config, GameConfig, override
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.rows import BatchEdges, InteractionRows, batch_edges, interaction_rows
from mmssl_jax.graph.structure import empty_edges
from mmssl_jax.presets import preset_config
from mmssl_jax.training.optimizers import critic_optimizer, generator_optimizer
from mmssl_jax.training.state import (
    Inputs,
    Sizes,
    TrainState,
    init_state,
    initial_learned_graph,
    make_inputs,
    problem_sizes,
)

N_USERS, N_ITEMS = 9, 23
# The structured forms meet the dense ones to this relative error.
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}

TINY = {
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


def dense_unit_rows(rows: jax.Array) -> jax.Array:
    """x / |x|, zero for a zero row."""
    squared = jnp.sum(rows * rows, axis=1, keepdims=True)
    return rows / jnp.sqrt(jnp.where(squared > 0, squared, 1.0))


def dense_generated_rows(
    users: jax.Array, items: jax.Array, observed: np.ndarray, mask_observed: bool
) -> jax.Array:
    """Unit score rows `[B, I]` in full; `observed` are the batch's 0/1 rows."""
    scores = users @ items.T
    return dense_unit_rows(scores * (1 - observed) if mask_observed else scores)


def dense_real_rows(
    users: jax.Array,
    items: jax.Array,
    observed: np.ndarray,
    uniform: np.ndarray,
    game: GameConfig,
    mask_observed: bool,
) -> jax.Array:
    """Real rows `[B, I]` in full, from the final user and item vectors."""
    noise = game.gumbel_scale * -np.log(-np.log(uniform.astype(float) + 1e-8) + 1e-8)
    if game.temperature_scope == "logit":
        logits = (observed + noise) / game.temperature
    else:
        logits = observed + noise / game.temperature
    soft = jax.nn.softmax(jnp.asarray(logits, users.dtype), axis=1)
    scores = dense_generated_rows(users, items, observed, mask_observed)
    return dense_unit_rows(soft + game.score_weight * scores)


def tiny_dataset(n_modalities: int = 2, seed: int = 0) -> Dataset:
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


def tiny_config(preset: str = "paper", **changes: Any) -> Config:
    """A preset at tiny sizes; `changes` name settings with `__` for the dot."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return override(preset_config(preset), {**TINY, **dotted})


class Problem(NamedTuple):
    """A tiny training problem before its first step."""

    config: Config
    dataset: Dataset
    inputs: Inputs
    sizes: Sizes
    state: TrainState


def tiny_problem(config: Config, n_modalities: int = 2, dtype: Any = "float32") -> Problem:
    """The tiny dataset with random parameters, none of which is special (no zero bias)."""
    dataset, rng = tiny_dataset(n_modalities), np.random.default_rng(5)
    inputs, sizes = make_inputs(dataset, config), problem_sizes(dataset, config, 1)
    shapes = jax.eval_shape(lambda inputs: init_state(inputs, config, sizes), inputs)

    def random_parameters(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(0.4 * rng.normal(size=leaf.shape), dtype)

    generator, critic = jax.tree.map(random_parameters, (shapes.generator, shapes.critic))
    graph = initial_learned_graph(inputs, config, sizes)
    state = TrainState(
        step=jnp.int32(0),
        key=jax.random.key(0),
        generator=generator,
        critic=critic,
        generator_opt=generator_optimizer(config.optim, sizes.steps_per_epoch).init(generator),
        critic_opt=critic_optimizer(config.optim).init(critic),
        learned=dict.fromkeys(inputs.features, graph),
        pending={m: empty_edges(sizes.pending_edges) for m in shapes.pending},
    )
    return Problem(config, dataset, inputs, sizes, state)
