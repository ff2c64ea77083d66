"""SimGCL against dense NumPy, its noise, and a planted checkerboard."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import override
from mmssl_jax.methods.simgcl import Params, SimGCL, SimGCLConfig, noise_like
from mmssl_jax.sampling import sample_batch
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_embedding, compile_training
from tests.problems import (
    N_ITEMS,
    N_USERS,
    assert_close,
    interaction_matrix,
    precision,
    step_dataset,
)
from tests.slopes import gradient_by_differences
from tests.test_mf import checkerboard

DIM, BATCH = 4, 12
SETTINGS = {"dim": DIM, "noise": 0.3, "contrast": 0.7, "temperature": 0.4, "regularization": 0.2}


def config_of(**changes):
    sizes = {f"simgcl.{name}": value for name, value in SETTINGS.items()}
    shared = {
        "data.format": "synthetic",
        "sampling.batch_size": BATCH,
        "optim.lr": 0.02,
        "parallel.devices": 1,
    }
    return override(SimGCLConfig(), {**shared, **sizes, **changes})


@functools.cache
def adjacency() -> np.ndarray:
    """[U + I, U + I], normalised by both degrees, by loops."""
    matrix = interaction_matrix()
    weights = np.zeros((N_USERS + N_ITEMS, N_USERS + N_ITEMS))
    for user, item in np.argwhere(matrix):
        weight = (matrix[user].sum() * matrix[:, item].sum()) ** -0.5
        weights[user, N_USERS + item] = weights[N_USERS + item, user] = weight
    return weights


def dense_rounds(first: np.ndarray, layers: int, draws: list[np.ndarray] | None) -> np.ndarray:
    """The mean over rounds 1 to L; draws: uniform numbers [U + I, D] of each round."""
    x, total = first, np.zeros_like(first)
    for layer in range(layers):
        x = adjacency() @ x
        if draws is not None:
            unit = [row / np.linalg.norm(row) for row in draws[layer]]
            x = x + SETTINGS["noise"] * np.sign(x) * np.array(unit)
        total = total + x / layers
    return total


def draws_of(key: jax.Array, layers: int, dtype) -> list[np.ndarray]:
    """The uniform numbers of a pass, users before items."""
    rounds = []
    for layer in range(layers):
        keys = jax.random.split(jax.random.fold_in(key, layer))
        sides = zip(keys, (N_USERS, N_ITEMS), strict=True)
        rounds.append(np.concatenate([jax.random.uniform(k, (n, DIM), dtype) for k, n in sides]))
    return rounds


def dense_contrast(one: np.ndarray, other: np.ndarray, nodes: np.ndarray) -> float:
    distinct, terms = sorted(set(nodes.tolist())), []
    for n in distinct:
        cosines = [
            one[n] @ other[c] / np.linalg.norm(one[n]) / np.linalg.norm(other[c]) for c in distinct
        ]
        scores = np.exp(np.array(cosines) / SETTINGS["temperature"])
        terms.append(-np.log(scores[distinct.index(n)] / scores.sum()))
    return np.mean(terms)


def dense_loss(params: Params, triples: np.ndarray, layers: int, draws: list) -> dict[str, float]:
    first, nodes = np.concatenate(params), triples + np.array([0, N_USERS, N_USERS])
    final = dense_rounds(first, layers, None)
    one, other = (dense_rounds(first, layers, each) for each in draws)
    bpr = squares = 0.0
    for u, i, j in nodes:
        bpr += np.log1p(np.exp(-final[u] @ (final[i] - final[j]))) / BATCH
        squares += sum(first[n] @ first[n] for n in (u, i, j)) / 2 / BATCH
    contrast = sum(dense_contrast(one, other, nodes[:, side]) for side in (0, 1))
    loss = bpr + SETTINGS["contrast"] * contrast + SETTINGS["regularization"] * squares
    return {"bpr": bpr, "contrast": contrast, "loss": loss}


@pytest.mark.parametrize("layers", [1, 3])
def test_loss_and_gradient_of_a_step_are_those_of_dense_numpy(layers):
    """The first moment after one step is a tenth of the gradient."""
    rng, key = np.random.default_rng(1), jax.random.key(3)
    params = Params(rng.normal(size=(N_USERS, DIM)), rng.normal(size=(N_ITEMS, DIM)))
    with precision("float64") as dtype:
        method = SimGCL.build(config_of(**{"simgcl.layers": layers}), step_dataset())
        inputs = method.inputs(step_dataset())
        start = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
        state = method.init(key, inputs)._replace(params=start)
        batch_key, loss_key = jax.random.split(key)
        batch = sample_batch(batch_key, inputs.rows, BATCH, N_ITEMS, "interaction", "trained")
        triples = np.stack(batch, axis=1)
        assert len(np.unique(triples[:, 0])) < BATCH  # a user that occurs twice
        draws = [draws_of(k, layers, dtype) for k in jax.random.split(loss_key)]
        after, metrics = method.step(state, key, inputs)
        assert_close(metrics, dense_loss(params, triples, layers, draws), 1e-9)
        slopes = gradient_by_differences(
            lambda p: dense_loss(p, triples, layers, draws)["loss"], params
        )
        assert_close(jax.tree.map(lambda x: x / 0.1, after.moments[0].mu), slopes, 1e-6)
        ranks = dense_rounds(np.concatenate(params), layers, None)
        found = method.embed(state, inputs)
        assert_close(tuple(found), (ranks[:N_USERS], ranks[N_USERS:]), 1e-12)


def test_noise_keeps_the_orthant_and_has_its_length():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 8)), jnp.float32).at[7].set(0.0)
    noise = np.asarray(noise_like(jax.random.key(0), x, 0.1))
    assert np.all(noise * x >= 0)
    np.testing.assert_allclose(np.linalg.norm(np.delete(noise, 7, 0), axis=1), 0.1, rtol=1e-5)
    assert not noise[7].any()
    assert np.any(noise != np.asarray(noise_like(jax.random.key(1), x, 0.1)))


@pytest.mark.parametrize("layers", [1, 2])
def test_the_item_of_the_own_colour_comes_first(layers):
    dataset = checkerboard()
    changes = {"simgcl.dim": 8, "simgcl.layers": layers, "simgcl.contrast": 0.1}
    changes |= {"simgcl.regularization": 0.01, "sampling.batch_size": 48}
    problem = load_problem(config_of(**changes), dataset)
    state, _ = compile_training(problem).epoch(new_state(problem), 200)
    vectors = compile_embedding(problem)(state)
    scores = np.array(vectors.users @ vectors.items.T)
    scores[*dataset.train.T] = -np.inf
    best = np.column_stack([np.arange(len(scores)), np.argmax(scores, axis=1)])
    np.testing.assert_array_equal(best, dataset.test)
