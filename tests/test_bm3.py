"""BM3 against dense NumPy, items that lack a modality, and a planted checkerboard."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import override
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.losses.cosine import cosine_distance, mean_of_present
from mmssl_jax.methods.bm3 import BM3, BM3Config, Params, targets
from mmssl_jax.sampling import sample_batch
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_embedding, compile_training
from tests.problems import (
    N_ITEMS,
    N_USERS,
    assert_close,
    partial_dataset,
    precision,
    step_dataset,
)
from tests.slopes import gradient_by_differences
from tests.test_mf import checkerboard
from tests.test_simgcl import adjacency

DIM, BATCH = 4, 12
SETTINGS = {"dim": DIM, "dropout": 0.25, "alignment": 0.7, "regularization": 0.6}


def config_of(**changes):
    sizes = {f"bm3.{name}": value for name, value in SETTINGS.items()}
    shared = {
        "data.format": "synthetic",
        "sampling.batch_size": BATCH,
        "optim.lr": 0.02,
        "parallel.devices": 1,
    }
    return override(BM3Config(), {**shared, **sizes, **changes})


def some_lack(present: np.ndarray) -> Dataset:
    """The tiny dataset, whose items have `m1` where `present`, and large numbers elsewhere."""
    plain = step_dataset()
    features = {**plain.features}
    features["m1"] = np.where(present[:, None], features["m1"], np.float32(1e3))
    return dataclasses.replace(plain, features=features, presence={"m1": present})


def dense_hidden(params: Params, layers: int) -> tuple[np.ndarray, np.ndarray]:
    """h of users and items."""
    first = np.concatenate([params.users, params.items])
    powers = [np.linalg.matrix_power(adjacency(), n) @ first for n in range(layers + 1)]
    mean = sum(powers) / (layers + 1)
    return mean[:N_USERS], mean[N_USERS:] + params.items


def dense_projected(params: Params, dataset: Dataset) -> dict[str, np.ndarray]:
    return {
        m: dataset.features[m].astype(np.float64) @ layer.kernel + layer.bias
        for m, layer in params.projections.items()
    }


def distance(x: np.ndarray, y: np.ndarray) -> float:
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return 1 - (x @ y / lengths if lengths else 0)


def dense_loss(
    params: Params, goals: dict[str, np.ndarray], pairs: np.ndarray, dataset: Dataset, layers: int
) -> dict[str, float]:
    """The loss by a loop over pairs, towards targets that stand still."""
    of_users, of_items = dense_hidden(params, layers)
    projected = dense_projected(params, dataset)

    def predicted(x: np.ndarray) -> np.ndarray:
        return x @ params.predictor.kernel + params.predictor.bias

    rank = np.mean(
        [
            distance(predicted(of_users[u]), goals["item"][i])
            + distance(predicted(of_items[i]), goals["user"][u])
            for u, i in pairs
        ]
    )
    align = mask = 0.0
    for m, x in projected.items():
        having = [i for _, i in pairs if m not in dataset.presence or dataset.presence[m][i]]
        if having:
            align += np.mean([distance(predicted(x[i]), goals["item"][i]) for i in having])
            mask += np.mean([distance(predicted(x[i]), goals[m][i]) for i in having])
    norms = np.sqrt((of_users**2).sum()) + np.sqrt((of_items**2).sum())
    total = rank + SETTINGS["alignment"] * (align + mask)
    total += SETTINGS["regularization"] * norms / N_ITEMS
    return {"rank": rank, "align": align, "mask": mask, "loss": total}


def goals_of(params: Params, key: jax.Array, dataset: Dataset, layers: int) -> dict:
    """Targets of all nodes: what dropout leaves, scaled up as usual."""
    of_users, of_items = dense_hidden(params, layers)
    tables = {"user": of_users, "item": of_items, **dense_projected(params, dataset)}
    goals = {}
    for k, (name, table) in zip(jax.random.split(key, len(tables)), tables.items(), strict=True):
        kept = np.asarray(jax.random.bernoulli(k, 1 - SETTINGS["dropout"], table.shape))
        assert 0 < kept.mean() < 1
        goals[name] = table * kept / (1 - SETTINGS["dropout"])
    return goals


@pytest.mark.parametrize(
    ("layers", "having"),
    [
        (2, "all"),
        (2, "some"),
        (0, "none of the batch"),
        pytest.param(0, "all", marks=pytest.mark.slow),
        pytest.param(0, "some", marks=pytest.mark.slow),
        pytest.param(2, "none of the batch", marks=pytest.mark.slow),
    ],
)
def test_loss_and_gradient_of_a_step_are_those_of_dense_numpy(layers, having):
    """The first moment after one step is a tenth of the gradient."""
    rng, key = np.random.default_rng(1), jax.random.key(3)
    batch_key, loss_key = jax.random.split(key)
    with precision("float64") as dtype:
        rows = BM3.build(config_of(), step_dataset()).inputs(step_dataset()).rows
        batch = sample_batch(batch_key, rows, BATCH, N_ITEMS, "interaction", "trained")
        pairs = np.stack([batch.users, batch.positives], axis=1)
        present = {
            "all": np.ones(N_ITEMS, bool),
            "some": np.arange(N_ITEMS) % 2 == pairs[0, 1] % 2,
            "none of the batch": ~np.isin(np.arange(N_ITEMS), pairs[:, 1]),
        }[having]
        dataset = some_lack(present)
        method = BM3.build(config_of(**{"bm3.layers": layers}), dataset)
        inputs = method.inputs(dataset)
        state = method.init(key, inputs)
        params = jax.tree.map(lambda x: rng.normal(size=x.shape), state.params)
        state = state._replace(params=jax.tree.map(lambda x: jnp.asarray(x, dtype), params))
        goals = goals_of(params, loss_key, dataset, layers)
        after, metrics = method.step(state, key, inputs)
        assert_close(metrics, dense_loss(params, goals, pairs, dataset, layers), 1e-9)
        slopes = gradient_by_differences(
            lambda p: dense_loss(p, goals, pairs, dataset, layers)["loss"], params
        )
        assert_close(jax.tree.map(lambda x: x / 0.1, after.moments[0].mu), slopes, 1e-6, 1e-3)
        if having == "none of the batch":
            assert not np.any(slopes.projections["m1"].kernel)
            assert not np.any(after.moments[0].mu.projections["m1"].kernel)
        users, items = (
            side @ params.predictor.kernel + params.predictor.bias
            for side in dense_hidden(params, layers)
        )
        assert_close(tuple(method.embed(state, inputs)), (users, items), 1e-12)


def test_a_node_has_one_mask_and_targets_no_gradient():
    nodes, h = jnp.array([3, 1, 3, 0]), jnp.ones((4, 40))
    dropped = np.asarray(targets(jax.random.key(0), 5, nodes, h, 0.5))
    np.testing.assert_array_equal(dropped[0], dropped[2])
    assert np.any(dropped[0] != dropped[1])
    assert 0.3 < dropped.mean() < 0.7
    slopes = jax.grad(lambda h: jnp.sum(targets(jax.random.key(0), 5, nodes, h, 0.5)))(h)
    assert not np.asarray(slopes).any()


def test_the_mean_over_devices_is_that_of_all_present_rows():
    values, present = np.arange(8.0), np.array([1, 0, 0, 0, 1, 1, 1, 0], bool)
    shares = jax.vmap(lambda *x: mean_of_present(*x, "devices"), axis_name="devices")(
        jnp.asarray(values.reshape(4, 2)), jnp.asarray(present.reshape(4, 2))
    )
    assert float(jnp.mean(shares)) == pytest.approx(values[present].mean())
    assert float(mean_of_present(jnp.ones(3), jnp.zeros(3, bool), None)) == 0


def test_a_row_of_zeros_is_at_distance_1_with_a_finite_gradient():
    zeros, ones = jnp.zeros((2, 3)), jnp.ones((2, 3))
    np.testing.assert_allclose(cosine_distance(zeros, ones), 1.0)
    np.testing.assert_allclose(cosine_distance(2 * ones, ones), 0.0, atol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(cosine_distance(x, ones)))(zeros)
    assert not np.asarray(gradient).any()


def losses(devices: int, transform: str) -> list[dict[str, float]]:
    """Of every one of five steps, with items that lack a modality."""
    changes = {"parallel.devices": devices, "parallel.transform": transform}
    problem = load_problem(config_of(**changes, **{"sampling.batch_size": 48}), partial_dataset())
    run, state, found = compile_training(problem).epoch, new_state(problem), []
    for _ in range(5):
        state, metrics = run(state, 1)
        found.append(jax.device_get(metrics))
    return found


def test_losses_with_lacking_modalities_do_not_depend_on_the_number_of_devices():
    assert_close(losses(4, "pmap"), losses(1, "pmap"), 1e-5)


def test_the_item_of_the_own_colour_comes_first():
    dataset = checkerboard()
    changes = {"bm3.dim": 8, "bm3.regularization": 0.0, "sampling.batch_size": 48}
    problem = load_problem(config_of(**changes), dataset)
    state, _ = compile_training(problem).epoch(new_state(problem), 300)
    vectors = compile_embedding(problem)(state)
    scores = np.array(vectors.users @ vectors.items.T)
    scores[*dataset.train.T] = -np.inf
    best = np.column_stack([np.arange(len(scores)), np.argmax(scores, axis=1)])
    np.testing.assert_array_equal(best, dataset.test)
