"""VBPR against dense NumPy, and items and users that it was not trained on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import override
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.methods.vbpr import (
    VBPR,
    Params,
    VBPRConfig,
    item_vectors,
    knowledge_of,
    user_vectors,
)
from mmssl_jax.recommend import Recommender
from mmssl_jax.recommend.contents import contents_of
from mmssl_jax.sampling import sample_batch
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_training
from tests.problems import (
    N_ITEMS,
    N_USERS,
    assert_close,
    edges_of_batch,
    interaction_matrix,
    precision,
    step_dataset,
)
from tests.slopes import gradient_by_differences
from tests.test_mf import checkerboard

DIM, CONTENT, BATCH, WEIGHT = 3, 2, 12, 0.4
PRESENT = np.arange(N_ITEMS) % 3 > 0
EVERY = [(True, False), (False, True)]


def config_of(**changes):
    shared = {
        "data.format": "synthetic",
        "vbpr.dim": DIM,
        "vbpr.content_dim": CONTENT,
        "vbpr.regularization": WEIGHT,
        "sampling.batch_size": BATCH,
        "optim.lr": 0.02,
        "parallel.devices": 1,
    }
    return override(VBPRConfig(), {**shared, **changes})


def with_settings(biases: bool, scaled: bool) -> VBPRConfig:
    return config_of(**{"vbpr.biases": biases, "vbpr.standardised": scaled})


def partial() -> Dataset:
    """Three modalities; the first has a constant column, and some items lack the last, in place of
    which are large numbers."""
    plain = step_dataset(3)
    features = {**plain.features, "m2": np.where(PRESENT[:, None], plain.features["m2"], 1e3)}
    features["m2"] = features["m2"].astype(np.float32)
    features["m0"] = np.column_stack([features["m0"][:, :3], np.full(N_ITEMS, 0.7, np.float32)])
    return dataclasses.replace(plain, features=features, presence={"m2": PRESENT})


def content_of(dataset: Dataset, item: int, scaled: bool) -> dict[str, np.ndarray]:
    """An item's features, 0 where it lacks them."""
    found = {}
    for m, rows in dataset.features.items():
        present = dataset.presence.get(m, np.ones(N_ITEMS, bool))
        having = rows[present].astype(np.float64)
        row = rows[item].astype(np.float64)
        if scaled:
            constant = having.std(axis=0) < 1e-6
            deviation = np.where(constant, np.inf, having.std(axis=0))
            row = (row - having.mean(axis=0)) / deviation
        found[m] = row * present[item]
    return found


def score(params: Params, user: int, item: int, content: dict[str, np.ndarray]) -> float:
    """s_ui, part by part."""
    x, own = params.users[user], params.items[item]
    total = x[:DIM] @ own[:DIM] + own[DIM:].sum()
    for number, (m, features) in enumerate(content.items()):
        theta = x[DIM + number * CONTENT : DIM + (number + 1) * CONTENT]
        total += theta @ (features @ params.content[m][:, :CONTENT])
        total += (features @ params.content[m][:, CONTENT:]).sum()
    return total


def dense_items(params: Params, dataset: Dataset, scaled: bool) -> np.ndarray:
    """y of all items."""
    rows = []
    for item in range(N_ITEMS):
        content = content_of(dataset, item, scaled)
        parts, bias = [params.items[item, :DIM]], params.items[item, DIM:].copy()
        for m, features in content.items():
            projected = features @ params.content[m]
            parts.append(projected[:CONTENT])
            bias += projected[CONTENT:]
        rows.append(np.concatenate([*parts, bias]))
    return np.array(rows)


def dense_loss(params: Params, triples: np.ndarray, dataset: Dataset, scaled: bool) -> dict:
    bpr = 0.0
    for u, i, j in triples:
        scores = [score(params, u, k, content_of(dataset, k, scaled)) for k in (i, j)]
        bpr += np.log1p(np.exp(scores[1] - scores[0])) / BATCH
    items = dense_items(params, dataset, scaled)
    sides = params.users[triples[:, 0]], items[triples[:, 1]], items[triples[:, 2]]
    norms = sum(np.sqrt((side**2).sum()) for side in sides)
    return {"bpr": bpr, "loss": bpr + WEIGHT * norms / BATCH}


def random_start(config: VBPRConfig, dataset: Dataset, dtype):
    method = VBPR.build(config, dataset)
    inputs, rng = method.inputs(dataset), np.random.default_rng(2)
    state = method.init(jax.random.key(0), inputs)
    params = jax.tree.map(lambda x: 0.5 * rng.normal(size=x.shape), state.params)
    start = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
    return method, inputs, state._replace(params=start), params


@pytest.mark.parametrize(("biases", "scaled"), EVERY)
def test_loss_and_gradient_of_a_step_are_those_of_dense_numpy(biases, scaled):
    """The first moment after one step is a tenth of the gradient."""
    dataset, key = partial(), jax.random.key(3)
    with precision("float64") as dtype:
        start = random_start(with_settings(biases, scaled), dataset, dtype)
        method, inputs, state, params = start
        batch = sample_batch(
            jax.random.split(key)[0], inputs.rows, BATCH, N_ITEMS, "interaction", "trained"
        )
        triples = np.stack(batch, axis=1)
        after, metrics = method.step(state, key, inputs)
        # Features are float32, and are scaled in it.
        tolerance = 1e-5 if scaled else 1e-9
        assert_close(metrics, dense_loss(params, triples, dataset, scaled), tolerance)
        slopes = gradient_by_differences(
            lambda p: dense_loss(p, triples, dataset, scaled)["loss"], params
        )
        gradient = jax.tree.map(lambda x: x / 0.1, after.moments[0].mu)
        assert_close(gradient, slopes, max(tolerance, 1e-6))


@pytest.mark.parametrize(("biases", "scaled"), EVERY)
def test_vectors_score_as_the_sum_of_the_parts(biases, scaled):
    dataset = partial()
    method, inputs, state, params = random_start(with_settings(biases, scaled), dataset, "float32")
    users, items = method.embed(state, inputs)
    expected = [
        [score(params, u, i, content_of(dataset, i, scaled)) for i in range(N_ITEMS)]
        for u in range(N_USERS)
    ]
    np.testing.assert_allclose(users @ items.T, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("biases", "scaled"), EVERY)
def test_new_items_have_their_content_and_nothing_of_their_own(biases, scaled):
    dataset, config = partial(), with_settings(biases, scaled)
    method, inputs, state, params = random_start(config, dataset, "float32")
    known = knowledge_of(method, state, inputs)
    features = {m: jnp.asarray(x) for m, x in dataset.features.items()}
    present = {m: jnp.asarray(dataset.presence.get(m, PRESENT | True)) for m in features}
    bare = params._replace(items=np.zeros_like(params.items))
    expected = dense_items(bare, dataset, scaled)
    found = item_vectors(config, known, features, present)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("biases", [True, False])
def test_new_users_take_the_first_step_from_zero(biases):
    """By the gradient of the ranking loss of all pairs of an item of theirs and any item."""
    dataset, config = partial(), with_settings(biases, False)
    method, inputs, state, params = random_start(config, dataset, "float32")
    known, matrix, users = knowledge_of(method, state, inputs), interaction_matrix(), [0, 4, 2]
    found = user_vectors(config, known, edges_of_batch(matrix, np.array(users)))
    items = dense_items(params, dataset, False)
    lengths = [np.linalg.norm(params.users[u]) for u in range(N_USERS) if matrix[u].any()]
    for row, user in zip(np.asarray(found), users, strict=True):
        own = np.flatnonzero(matrix[user])
        if not len(own):
            assert not row.any()
            continue
        pull = sum(items[i] - items[j] for i in own for j in range(N_ITEMS))
        pull = pull[: len(pull) - biases]
        expected = np.mean(lengths) * pull / np.linalg.norm(pull)
        np.testing.assert_allclose(row, [*expected, *[1.0] * biases], rtol=1e-3, atol=1e-4)


def test_first_vectors_are_xaviers_and_biases_start_at_0():
    for biases in (True, False):
        method = VBPR.build(with_settings(biases, False), partial())
        params = method.init(jax.random.key(0), method.inputs(partial())).params
        assert params.users.shape == (N_USERS, DIM + 3 * CONTENT)
        assert params.items.shape == (N_ITEMS, DIM + biases)
        assert {m: x.shape for m, x in params.content.items()} == {
            f"m{n}": (4 + n, CONTENT + biases) for n in range(3)
        }
        assert not np.any(params.items[:, DIM:])
        assert not any(np.any(x[:, CONTENT:]) for x in params.content.values())
        assert all(np.all(leaf[:, 0]) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("biases", [True, False])
def test_content_decides_on_items_without_training_interactions(biases):
    """Two items of each colour are new; their features tell the colour."""
    board = checkerboard()
    new, colours = np.arange(12, 16), np.arange(16) % 2
    train = np.concatenate([board.train, board.test])
    features = np.stack([colours, 1 - colours, np.ones(16)], axis=1).astype(np.float32)
    dataset = dataclasses.replace(
        board,
        train=np.unique(train[train[:, 1] < 12], axis=0),
        test=np.zeros((0, 2), np.int32),
        features={"colour": features},
    )
    changes = {"vbpr.biases": biases, "sampling.batch_size": 48, "vbpr.regularization": 0.01}
    problem = load_problem(config_of(**changes), dataset)
    state, _ = compile_training(problem).epoch(new_state(problem), 300)
    recommender = Recommender(contents_of(problem, state))
    untrained = recommender.untrained_items()
    np.testing.assert_array_equal(untrained.ids, new)
    ids, _ = recommender.recommend(np.arange(12), 2, items=new, cold=untrained)
    assert np.all(ids % 2 == np.arange(12)[:, None] % 2)
    ids, _ = recommender.recommend_for_items([[0, 2], [1, 3]], 2, items=new, cold=untrained)
    assert np.all(ids % 2 == [[0], [1]])
