"""LightGCN against dense NumPy, on a planted checkerboard, and over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import override
from mmssl_jax.methods.lightgcn import LightGCN, LightGCNConfig, Params, light_gcn
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
    tiny_dataset,
)
from tests.test_mf import checkerboard

CHANGES = {
    "data.format": "synthetic",
    "lightgcn.dim": 8,
    "optim.lr": 0.02,
    "sampling.batch_size": 48,
    "parallel.devices": 1,
}
DIM, BATCH, WEIGHT = 4, 12, 0.3


def config_of(**changes):
    return override(LightGCNConfig(), {**CHANGES, **changes})


def mean_of_rounds(layers: int) -> np.ndarray:
    """[U + I, U + I], P = (1 + A + .. + A^L) / (L + 1) for the normalised adjacency A, by loops."""
    matrix = interaction_matrix()
    adjacency = np.zeros((N_USERS + N_ITEMS, N_USERS + N_ITEMS))
    for user, item in np.argwhere(matrix):
        weight = (matrix[user].sum() * matrix[:, item].sum()) ** -0.5
        adjacency[user, N_USERS + item] = adjacency[N_USERS + item, user] = weight
    powers = [np.linalg.matrix_power(adjacency, n) for n in range(layers + 1)]
    return sum(powers) / (layers + 1)


def random_params(rng: np.random.Generator) -> Params:
    return Params(rng.normal(size=(N_USERS, DIM)), rng.normal(size=(N_ITEMS, DIM)))


def dense_loss(params: Params, triples: np.ndarray, layers: int) -> tuple[float, float, Params]:
    """Ranking loss, whole loss, and its gradients, by a loop over triples."""
    rounds, first = mean_of_rounds(layers), np.concatenate(params)
    final, pulls, direct, bpr = rounds @ first, np.zeros(first.shape), np.zeros(first.shape), 0.0
    nodes = triples + np.array([0, N_USERS, N_USERS])
    for u, i, j in nodes:
        margin = final[u] @ (final[i] - final[j])
        bpr += np.log1p(np.exp(-margin)) / len(nodes)
        slope = -1 / (1 + np.exp(margin)) / len(nodes)
        pulls[u] += slope * (final[i] - final[j])
        pulls[i] += slope * final[u]
        pulls[j] -= slope * final[u]
    norms = 0.0
    for side in nodes.T:
        norm = np.sqrt(sum(first[node] @ first[node] for node in side))
        norms += norm
        for node in side:
            direct[node] += WEIGHT / len(nodes) * first[node] / norm
    gradient = rounds.T @ pulls + direct
    whole = bpr + WEIGHT * norms / len(nodes)
    return bpr, whole, Params(gradient[:N_USERS], gradient[N_USERS:])


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_vectors_are_the_mean_of_the_rounds(layers):
    params = random_params(np.random.default_rng(0))
    dense = mean_of_rounds(layers) @ np.concatenate(params)
    with precision("float64") as dtype:
        method = LightGCN.build(config_of(**{"lightgcn.layers": layers}), step_dataset())
        inputs = method.inputs(step_dataset())
        users, items = (jnp.asarray(side, dtype) for side in params)
        found = light_gcn(inputs.graph, users, items, layers)
        state = method.init(jax.random.key(0), inputs)._replace(params=Params(users, items))
        assert_close(tuple(found), (dense[:N_USERS], dense[N_USERS:]), 1e-12)
        assert_close(tuple(method.embed(state, inputs)), tuple(found), 1e-12)


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize("by", ["interaction", "user"])
def test_loss_and_gradient_of_a_step_are_those_of_dense_numpy(layers, by):
    """The first moment after one step is a tenth of the gradient."""
    changes = {
        "lightgcn.layers": layers,
        "lightgcn.dim": DIM,
        "lightgcn.regularization": WEIGHT,
        "sampling.batch_size": BATCH,
        "sampling.by": by,
    }
    params, key = random_params(np.random.default_rng(1)), jax.random.key(3)
    with precision("float64") as dtype:
        method = LightGCN.build(config_of(**changes), step_dataset())
        inputs = method.inputs(step_dataset())
        start = Params(*(jnp.asarray(side, dtype) for side in params))
        state = method.init(key, inputs)._replace(params=start)
        batch = sample_batch(jax.random.split(key)[0], inputs.rows, BATCH, N_ITEMS, by, "trained")
        triples = np.stack(batch, axis=1)
        assert len(np.unique(triples[:, 0])) < BATCH  # a user that occurs twice
        bpr, whole, gradient = dense_loss(params, triples, layers)
        after, metrics = method.step(state, key, inputs)
        moments = after.moments[0]
        assert_close(metrics, {"bpr": bpr, "loss": whole}, 1e-12)
        assert_close(jax.tree.map(lambda x: x / 0.1, moments.mu), gradient, 1e-12)
        # Adam's first step is the rate, by the gradient's sign; optax corrects bias in float32.
        steps = jax.tree.map(lambda g: 0.02 * g / (np.abs(g) + 1e-8), gradient)
        moved = jax.tree.map(lambda old, new: old - new, start, after.params)
        assert_close(moved, steps, 1e-7)


def test_the_first_embeddings_are_xaviers():
    method = LightGCN.build(config_of(**{"lightgcn.dim": 64}), tiny_dataset())
    params = method.init(jax.random.key(0), method.inputs(tiny_dataset())).params
    for rows, n in zip(params, (60, 40), strict=True):
        bound = np.sqrt(6 / (n + 64))
        assert rows.shape == (n, 64)
        assert 0.98 * bound < np.abs(rows).max() <= bound
        assert np.std(rows) == pytest.approx(bound / np.sqrt(3), rel=0.05)


@pytest.mark.parametrize("layers", [0, 2, 3])
def test_the_item_of_the_own_colour_comes_first(layers):
    dataset = checkerboard()
    problem = load_problem(config_of(**{"lightgcn.layers": layers}), dataset)
    state, _ = compile_training(problem).epoch(new_state(problem), 300)
    vectors = compile_embedding(problem)(state)
    scores = np.array(vectors.users @ vectors.items.T)
    scores[*dataset.train.T] = -np.inf
    best = np.column_stack([np.arange(len(scores)), np.argmax(scores, axis=1)])
    np.testing.assert_array_equal(best, dataset.test)


def losses(devices: int, transform: str) -> list[dict[str, float]]:
    """Of every one of five steps, with a weight at which the norms matter."""
    changes = {"parallel.devices": devices, "parallel.transform": transform}
    changes["parallel.tables"] = "replicated"
    config = config_of(**{"lightgcn.regularization": WEIGHT, **changes})
    problem = load_problem(config, tiny_dataset())
    run, state, found = compile_training(problem).epoch, new_state(problem), []
    for _ in range(5):
        state, metrics = run(state, 1)
        found.append(jax.device_get(metrics))
    return found


@pytest.mark.parametrize(("devices", "transform"), [(2, "pmap"), (2, "shard_map"), (4, "pmap")])
def test_losses_do_not_depend_on_the_number_of_devices(devices, transform):
    expected = losses(1, "pmap")
    assert all(step["loss"] > step["bpr"] + 0.01 for step in expected)
    assert_close(losses(devices, transform), expected, 1e-5)
