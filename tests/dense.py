"""Parts of graph methods by loops in NumPy, and datasets on which features decide."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mmssl_jax.data.dataset import Dataset
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_embedding, compile_training
from tests.problems import N_ITEMS, step_dataset, tiny_dataset


def partial_step_dataset(n_modalities: int = 2) -> Dataset:
    """`step_dataset` with items that lack a modality, and one that lacks all; in place of features
    that are not there are large numbers, which nothing may read."""
    plain, present = step_dataset(n_modalities), np.ones((n_modalities, N_ITEMS), bool)
    present[0, [2, 5, 11]] = False
    present[1, [3, 5]] = False
    presence = dict(zip(plain.modalities, present, strict=True))
    features = {
        m: np.where(presence[m][:, None], x, np.float32(1e3)) for m, x in plain.features.items()
    }
    return dataclasses.replace(plain, features=features, presence=presence)


def features_of(dataset: Dataset) -> dict[str, np.ndarray]:
    """{modality: float64 [I, F]}, zero where an item lacks it."""
    return {
        m: np.where(dataset.presence[m][:, None], x, 0.0).astype(float)
        if m in dataset.presence
        else x.astype(float)
        for m, x in dataset.features.items()
    }


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    """0 for a vector of zeros."""
    scale = np.sqrt((x @ x) * (y @ y))
    return x @ y / scale if scale else 0.0


def nearest_matrix(features: np.ndarray, k: int) -> np.ndarray:
    """[I, I]: at (i, j) their cosine where j is one of i's k nearest, itself among them, else NaN;
    a row of zeros has none, and is nobody's."""
    known = np.flatnonzero(np.any(features != 0, axis=1))
    found = np.full((len(features), len(features)), np.nan)
    for i in known:
        by_cosine = sorted(known, key=lambda j: -np.inf if j == i else -cosine(*features[[i, j]]))
        for j in by_cosine[:k]:
            found[i, j] = cosine(*features[[i, j]])
    return found


def symmetric_matrix(values: np.ndarray) -> np.ndarray:
    """v_ij (d_i d_j)^-1/2, d the sums of the rows."""
    degree, weights = values.sum(axis=1), np.zeros(values.shape)
    for i, j in np.argwhere(values):
        weights[i, j] = values[i, j] * (degree[i] * degree[j]) ** -0.5
    return weights


def mean_of_rounds(
    edges: np.ndarray, users: np.ndarray, items: np.ndarray, layers: int
) -> tuple[np.ndarray, np.ndarray]:
    """LightGCN's vectors of users and items on these edges."""
    matrix = np.zeros((len(users), len(items)))
    for user, item in edges:
        matrix[user, item] = 1.0
    weights = np.zeros(matrix.shape)
    for user, item in edges:
        weights[user, item] = (matrix[user].sum() * matrix[:, item].sum()) ** -0.5
    total_users, total_items = users, items
    for _ in range(layers):
        users, items = weights @ items, weights.T @ users
        total_users, total_items = total_users + users, total_items + items
    return total_users / (layers + 1), total_items / (layers + 1)


def ranking_loss(users: np.ndarray, items: np.ndarray, triples: np.ndarray) -> float:
    """The mean of -log sigmoid of the margins, one triple at a time."""
    margins = [users[u] @ (items[i] - items[j]) for u, i, j in triples]
    return np.mean([np.log1p(np.exp(-margin)) for margin in margins])


def half_squares(users: np.ndarray, items: np.ndarray, triples: np.ndarray) -> float:
    """The mean over triples of half the squares of their vectors."""
    vectors = [(users[u], items[i], items[j]) for u, i, j in triples]
    return np.mean([sum(x @ x for x in three) / 2 for three in vectors])


def numeric_gradient(loss: Callable[[Any], float], params: Any, step: float = 1e-5) -> Any:
    """Central differences of a loss of float64 arrays, one entry at a time."""
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda x: np.array(x, float), params))
    gradients = [np.zeros(leaf.shape) for leaf in leaves]
    for leaf, gradient in zip(leaves, gradients, strict=True):
        for place in np.ndindex(leaf.shape):
            middle, ends = leaf[place], []
            for value in (middle + step, middle - step):
                leaf[place] = value
                ends.append(loss(jax.tree.unflatten(tree, leaves)))
            leaf[place] = middle
            gradient[place] = (ends[0] - ends[1]) / (2 * step)
    return jax.tree.unflatten(tree, gradients)


def random_like(tree: Any, dtype: Any, seed: int = 1) -> Any:
    """Normal arrays of the shapes of a tree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jax.numpy.asarray(rng.normal(size=x.shape), dtype), tree)


N_COLOURED_USERS, N_COLOURED_ITEMS = 12, 16


def coloured() -> Dataset:
    """A user has all items of their colour, index % 2, but the last, which has no training
    interaction: features, which show an item's colour, alone tell who will like it."""
    rng, size = np.random.default_rng(0), (N_COLOURED_USERS, N_COLOURED_ITEMS)
    users, items = np.indices(size)
    liked, is_new = users % 2 == items % 2, items >= N_COLOURED_ITEMS - 2
    colours = np.eye(2, 5)[np.arange(N_COLOURED_ITEMS) % 2]
    features = {m: colours + 0.1 * rng.normal(size=colours.shape) for m in ("a", "b")}
    return dataclasses.replace(
        tiny_dataset(),
        name="coloured",
        user_ids=np.arange(size[0]),
        item_ids=np.arange(size[1]),
        train=np.argwhere(liked & ~is_new).astype(np.int32),
        validation=np.zeros((0, 2), np.int32),
        test=np.argwhere(liked & is_new).astype(np.int32),
        features={m: x.astype(np.float32) for m, x in features.items()},
    )


def new_items_margins(config: Any, n_epochs: int = 20) -> np.ndarray:
    """[U]: by how much each user scores the new item of their colour above the other new one, after
    training on `coloured`."""
    problem = load_problem(config, coloured())
    state, run = new_state(problem), compile_training(problem).epoch
    for _ in range(n_epochs):
        state, _ = run(state, 10)
    vectors = compile_embedding(problem)(state)
    new = np.asarray(vectors.users @ vectors.items[-2:].T)
    own = np.arange(N_COLOURED_USERS) % 2
    return new[np.arange(len(new)), own] - new[np.arange(len(new)), 1 - own]
