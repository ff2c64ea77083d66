"""BPR matrix factorisation against dense NumPy, on a planted checkerboard, and over devices."""

import dataclasses

import jax
import numpy as np
import pytest

from mmssl_jax.config import override
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.methods.mf import MF, MFConfig, Params, mf_loss, scoring_vectors
from mmssl_jax.sampling import Batch
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_embedding, compile_training
from tests.problems import assert_close, precision, tiny_dataset

CHANGES = {
    "data.format": "synthetic",
    "mf.dim": 8,
    "optim.lr": 0.02,
    "sampling.batch_size": 48,
    "parallel.devices": 1,
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dense_loss(users, items, bias, triples, weight):
    """The loss and its gradients by U x I score tables and loops over triples."""
    scores = users @ items.T + bias
    loss, gradients = 0.0, [np.zeros_like(x) for x in (users, items, bias)]
    of_users, of_items, of_bias = gradients
    for u, i, j in triples:
        margin = scores[u, i] - scores[u, j]
        squares = (users[u] @ users[u] + items[i] @ items[i] + items[j] @ items[j]) / 2
        squares += (bias[i] ** 2 + bias[j] ** 2) / 2
        loss += -np.log(sigmoid(margin)) + weight * squares
        pull = -sigmoid(-margin)
        of_users[u] += pull * (items[i] - items[j]) + weight * users[u]
        for item, sign in ((i, 1), (j, -1)):
            of_items[item] += sign * pull * users[u] + weight * items[item]
            of_bias[item] += sign * pull + weight * bias[item]
    return loss / len(triples), [x / len(triples) for x in gradients]


@pytest.mark.parametrize("has_bias", [True, False])
def test_loss_and_gradient_are_those_of_dense_numpy(has_bias):
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(5, 3)), rng.normal(size=(7, 3))
    bias = has_bias * rng.normal(size=7)
    # User 1 and item 2 occur more than once, item 2 as positive and as negative.
    triples = np.array([[0, 2, 6], [1, 0, 2], [1, 2, 3], [4, 5, 0]])
    loss, (of_users, of_items, of_bias) = dense_loss(users, items, bias, triples, 0.3)
    if has_bias:
        items = np.column_stack([items, bias])
        of_items = np.column_stack([of_items, of_bias])
    with precision("float64") as dtype:
        params = jax.tree.map(lambda x: jax.numpy.asarray(x, dtype), Params(users, items))
        found, gradients = jax.value_and_grad(lambda p: mf_loss(p, Batch(*triples.T), 0.3)[0])(
            params
        )
        assert_close((found, gradients), (loss, Params(of_users, of_items)), 1e-12)


@pytest.mark.parametrize("has_bias", [True, False])
def test_vectors_score_by_product_and_bias(has_bias):
    rng = np.random.default_rng(1)
    users, items = rng.normal(size=(5, 3)), rng.normal(size=(7, 3 + has_bias))
    vectors = scoring_vectors(Params(*map(np.float32, (users, items))))
    expected = users @ items[:, :3].T + (items[:, 3] if has_bias else 0.0)
    np.testing.assert_allclose(vectors.users @ vectors.items.T, expected, rtol=1e-4, atol=1e-5)


def test_the_bias_starts_at_0_and_can_be_left_out():
    for has_bias in (True, False):
        config = override(MFConfig(), {**CHANGES, "mf.item_bias": has_bias})
        method = MF.build(config, tiny_dataset())
        params = method.init(jax.random.key(0), method.inputs(tiny_dataset())).params
        assert params.users.shape == (60, 8)
        assert params.items.shape == (40, 8 + has_bias)
        assert not np.any(params.items[:, 8:])
        assert np.std(params.items[:, :8]) == pytest.approx(0.1, rel=0.2)


def checkerboard(n_users: int = 12, n_items: int = 16) -> Dataset:
    """A user likes all items of their colour, index % 2; one of these is held out."""
    users, items = np.indices((n_users, n_items))
    liked = users % 2 == items % 2
    # Users of a colour hold out different items, so that every item has training interactions.
    held_out = items == (users + 2 * (users // 2)) % n_items
    assert np.all(np.sum(liked & held_out, axis=1) == 1)
    return dataclasses.replace(
        tiny_dataset(),
        name="checkerboard",
        user_ids=np.arange(n_users),
        item_ids=np.arange(n_items),
        train=np.argwhere(liked & ~held_out).astype(np.int32),
        validation=np.zeros((0, 2), np.int32),
        test=np.argwhere(liked & held_out).astype(np.int32),
        features={"unread": np.ones((n_items, 1), np.float32)},  # a dataset has some
    )


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_item_of_the_own_colour_comes_first(has_bias):
    dataset = checkerboard()
    config = override(MFConfig(), {**CHANGES, "mf.item_bias": has_bias})
    problem = load_problem(config, dataset)
    state, _ = compile_training(problem).epoch(new_state(problem), 300)
    vectors = compile_embedding(problem)(state)
    scores = np.array(vectors.users @ vectors.items.T)
    scores[*dataset.train.T] = -np.inf
    best = np.column_stack([np.arange(len(scores)), np.argmax(scores, axis=1)])
    np.testing.assert_array_equal(best, dataset.test)


def losses(devices: int, transform: str) -> list[dict[str, float]]:
    """Of every one of five steps."""
    changes = {"parallel.devices": devices, "parallel.transform": transform}
    problem = load_problem(override(MFConfig(), {**CHANGES, **changes}), tiny_dataset())
    run, state, found = compile_training(problem).epoch, new_state(problem), []
    for _ in range(5):
        state, metrics = run(state, 1)
        found.append(jax.device_get(metrics))
    return found


@pytest.mark.parametrize("transform", ["pmap", "shard_map"])
def test_losses_do_not_depend_on_the_number_of_devices(transform):
    assert_close(losses(2, transform), losses(1, "pmap"), 1e-5)
