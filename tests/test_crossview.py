"""CrossView against dense NumPy, part by part, and what it makes of new users and items."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import ConfigError, override
from mmssl_jax.graph.rows import interaction_rows
from mmssl_jax.method import Vectors
from mmssl_jax.methods.crossview import CrossView
from mmssl_jax.methods.crossview.config import CrossViewConfig
from mmssl_jax.methods.crossview.game import adversarial_loss, draw_share, new_player
from mmssl_jax.methods.crossview.inductive import item_vectors, knowledge_of, user_vectors
from mmssl_jax.methods.crossview.model import (
    Catalogue,
    Embeddings,
    Loss,
    Params,
    batch_loss,
    embeddings,
    powered_rows,
)
from mmssl_jax.methods.mmssl.game.adversarial import score_rows
from mmssl_jax.methods.mmssl.state import critic_module
from mmssl_jax.methods.trained import Step
from mmssl_jax.recommend.rank import QueryBlocks, pad_pairs
from mmssl_jax.sampling import Batch, distinct_places
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_embedding, compile_training
from tests.problems import partial_dataset, precision, tiny_dataset
from tests.test_mf import checkerboard

CHANGES = {
    "data.format": "synthetic",
    "view.dim": 4,
    "view.neighbours": 3,
    "softmax.negatives": 7,
    "contrast.nodes": 10,
    "sampling.batch_size": 48,
    "parallel.devices": 1,
}
OFF = {
    "whole": {},
    "with taste": {"view.taste_weight": 0.5},
    "no users' view": {"view.user_hops": 0},
    "no items' view": {"view.item_hops": 0},
    "no views": {"view.user_hops": 0, "view.item_hops": 0},
    "one hop, weighted": {
        "view.user_hops": 1,
        "view.item_hops": 1,
        "view.user_weight": 0.5,
        "view.item_weight": 1.0,
        "view.lean": 0.7,
        "view.layers": 2,
    },
}


def config_of(**changes) -> CrossViewConfig:
    return override(CrossViewConfig(), {**CHANGES, **changes})


def unit(x: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(norms > 1e-12, norms, 1.0)


def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, where=b > 0, out=np.zeros(np.broadcast(a, b).shape))


def random_params(dataset, seed: int = 0) -> Params:
    rng, (n, m) = np.random.default_rng(seed), (dataset.n_users, dataset.n_items)
    return Params(*(rng.normal(size=(rows, 4)).astype(np.float32) for rows in (n, m, n, m)))


def state_of(method, params, inputs):
    """A state that ranks by these parameters."""
    state = method.init(jax.random.key(0), inputs)
    average = jax.tree.map(jnp.asarray, params)
    return state._replace(carried=state.carried._replace(average=average))


def interactions(dataset) -> np.ndarray:
    matrix = np.zeros((dataset.n_users, dataset.n_items))
    matrix[*dataset.train.T] = 1.0
    return matrix


def incidence(dataset, k: int) -> np.ndarray:
    """H [I, M I] by loops over items: itself, then the nearest by centred features."""
    parts = []
    for m, raw in dataset.features.items():
        present = dataset.presence.get(m, np.ones(dataset.n_items, bool))
        rows = np.where(present[:, None], raw - raw[present].mean(axis=0), 0.0).astype(float)
        cosine = unit(rows) @ unit(rows).T
        part = np.zeros(cosine.shape)
        for item in np.flatnonzero(present):
            others = [j for j in np.flatnonzero(present) if j != item]
            others.sort(key=lambda j: -cosine[item, j])
            part[item, [item, *others[: k - 1]]] = 1.0
        parts.append(part)
    return np.concatenate(parts, axis=1)


def dense_adjacency(dataset) -> np.ndarray:
    matrix = interactions(dataset)
    degrees = matrix.sum(axis=1, keepdims=True) * matrix.sum(axis=0, keepdims=True)
    return quotient(matrix, np.sqrt(degrees))


def dense_layers(dataset, params: Params, layers: int) -> list[np.ndarray]:
    adjacency = dense_adjacency(dataset)
    found = [(params.users, params.items)]
    for _ in range(layers):
        users, items = found[-1]
        found.append((adjacency @ items, adjacency.T @ users))
    return found


def dense_views(dataset, params: Params, settings) -> tuple[np.ndarray, np.ndarray]:
    matrix = interactions(dataset)
    shared = matrix @ matrix.T
    np.fill_diagonal(shared, 0.0)
    walk = quotient(shared, shared.sum(axis=1, keepdims=True))
    edges = incidence(dataset, settings.neighbours)
    product = edges @ edges.T
    root = quotient(np.ones(len(product)), np.sqrt(product.sum(axis=1)))
    content = root[:, None] * product * root
    users = np.linalg.matrix_power(walk, settings.user_hops) @ params.view_users
    items = np.linalg.matrix_power(content, settings.item_hops) @ params.view_items
    nothing = np.zeros_like
    return (
        users if settings.user_hops else nothing(users),
        items if settings.item_hops else nothing(items),
    )


@pytest.mark.parametrize("off", OFF)
def test_vectors_are_those_of_dense_numpy(off):
    dataset, config = partial_dataset(), config_of(**OFF[off])
    method, params = CrossView.build(config, dataset), random_params(dataset)
    inputs, view = method.inputs(dataset), config.view
    state = state_of(method, params, inputs)
    layers = dense_layers(dataset, params, view.layers)
    users, items = (sum(side) / (view.layers + 1) for side in zip(*layers, strict=True))
    of_users, of_items = dense_views(dataset, params, view)
    found = method.embed(state, inputs)
    degree = interactions(dataset).sum(axis=0)
    lengths = view.item_weight * (1 + view.lean / (degree + 1))
    expected = users + view.user_weight * unit(of_users), items + lengths[:, None] * unit(of_items)
    if view.taste_weight:
        taste = dense_adjacency(dataset) @ unit(of_items)
        expected = expected[0] + view.taste_weight * unit(taste), expected[1]
    np.testing.assert_allclose(found.users, expected[0], atol=2e-5)
    np.testing.assert_allclose(found.items, expected[1], atol=2e-5)


def powered(x: np.ndarray, power: float) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True) ** power


def contrast(vectors: np.ndarray, views: np.ndarray, temperature: float) -> float:
    z, q, total = unit(vectors), unit(views), 0.0
    for j in range(len(z)):
        f = [np.exp(z[j] @ q[k] / temperature) for k in range(len(z))]
        g = [np.exp(z[j] @ z[k] / temperature) for k in range(len(z)) if k != j]
        total -= np.log(f[j] / (sum(f) + sum(g)) + 1e-8)
    return total / len(z)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"softmax.user_norm": 0.0, "softmax.item_norm": 0.5},
        {"softmax.kind": "bpr", "contrast.users": 0.0, "softmax.regularization": 0.3},
        {"contrast.items": 0.0, "softmax.regularization": 0.3},
        {"view.user_hops": 0, "contrast.nodes": 1000},
    ],
    ids=["default", "powers", "bpr", "no item contrast", "no user view, all nodes"],
)
def test_the_loss_of_a_batch_is_that_of_loops(changes):
    """With all nodes contrasted, or the same drawn."""
    config, rng = config_of(**changes), np.random.default_rng(0)
    n, m, softmax = 12, 15, config.softmax
    users, items, of_users, of_items = (rng.normal(size=(rows, 4)) for rows in (n, m, n, m))
    params = Params(*(rng.normal(size=(rows, 4)) for rows in (n, m, n, m)))
    batch = Batch(*(rng.integers(high, size=8) for high in (n, m, m)))
    key = jax.random.key(3)
    item_key, contrast_key = jax.random.split(key)
    with precision("float64"):
        drawn = np.asarray(jax.random.randint(item_key, (softmax.negatives,), 0, m))
        embedded = Embeddings(Vectors(users, items), Vectors(of_users, of_items))
        embedded = jax.tree.map(jnp.asarray, embedded)
        step = Step(jax.tree.map(jnp.asarray, batch), key, ())
        rows = interaction_rows(np.array([[0, 0]]), n, m)
        loss = Loss(config, Catalogue(n, m), None)
        total, parts = batch_loss(loss, jax.tree.map(jnp.asarray, params), embedded, step, rows)
        nodes = [
            np.asarray(distinct_places(k, size, min(config.contrast.nodes, size)))
            for k, size in zip(jax.random.split(contrast_key), (n, m), strict=True)
        ]
    losses = []
    for u, i, j in zip(*batch, strict=True):
        if softmax.kind == "bpr":
            losses.append(np.log1p(np.exp(-users[u] @ (items[i] - items[j]))))
            continue
        p, r, t = softmax.user_norm, softmax.item_norm, softmax.temperature
        scores = powered(items, r) @ powered(users, p)[u] / t
        own = np.exp(scores[i])
        losses.append(-np.log(own / (own + np.exp(scores[drawn]).sum())))
    expected = np.mean(losses)
    assert float(parts["ranking"]) == pytest.approx(expected, rel=1e-8)
    sides = {"user_contrast": (users, of_users), "item_contrast": (items, of_items)}
    weights = (config.contrast.users * bool(config.view.user_hops), config.contrast.items)
    for (name, (vectors, views)), weight, own in zip(sides.items(), weights, nodes, strict=True):
        assert (name in parts) == (weight > 0)
        if weight:
            of_side = contrast(vectors[own], views[own], config.contrast.temperature)
            assert float(parts[name]) == pytest.approx(of_side, rel=1e-7)
            expected += weight * of_side
    squares = (params.users[batch.users] ** 2).sum() + (params.items[batch.positives] ** 2).sum()
    expected += softmax.regularization * squares / (2 * 8)
    assert float(total) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_row_of_zeros_has_a_finite_gradient(power):
    rows = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    found = powered_rows(rows, power)
    np.testing.assert_allclose(found[1], np.array([3.0, 4.0]) / 5**power, rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(powered_rows(x, power)))(rows)
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_the_average_of_the_parameters_is_over_steps():
    dataset = tiny_dataset()
    problem = load_problem(config_of(averaging=0.7), dataset)
    state, run = new_state(problem), compile_training(problem).epoch
    average = jax.device_get(state.method.params)
    for _ in range(3):
        state, _ = run(state, 1)
        params = jax.device_get(state.method.params)
        average = jax.tree.map(lambda old, new: 0.7 * old + 0.3 * new, average, params)
    for expected, found in zip(average, state.method.carried.average, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    without = load_problem(config_of(averaging=0.0), dataset)
    state, _ = compile_training(without).epoch(new_state(without), 3)
    assert state.method.carried.average == ()
    for last, found in zip(params, state.method.params, strict=True):
        np.testing.assert_allclose(found, last, rtol=1e-5, atol=1e-7)


# The game ----------------------------------------------------------------------------------------

GAME = {"game.weight": 0.5, "game.users": 16, "critic.hidden": (6, 4), "critic.dropout": (0.0, 0.0)}


def test_generated_rows_are_what_content_says_of_users():
    """The critic's score of the rows formed in full."""
    dataset, config = tiny_dataset(), config_of(**GAME)
    method = CrossView.build(config, dataset)
    inputs, params = method.inputs(dataset), random_params(dataset)
    params = jax.tree.map(jnp.asarray, params)
    embedded = embeddings(config.view, params, inputs, method.catalogue)
    share = draw_share(method.board(), jax.random.key(1), inputs.rows)
    player = new_player(method.board(), jax.random.key(2))
    users = np.asarray(embedded.vectors.users)[np.asarray(share.batch.users)]
    rows = unit(users @ np.asarray(embedded.views.items).T)
    projection = jnp.asarray(rows @ np.asarray(player.params["first_kernel"]), jnp.float32)
    critic = critic_module(method.board().setup)
    scores = score_rows(critic, player.params, projection, share.generator_critic)
    found = adversarial_loss(method.board(), player, embedded, share)
    assert float(found) == pytest.approx(-float(jnp.mean(scores)), rel=1e-4)
    assert len(np.unique(share.batch.users)) == 16


def played(devices: int) -> list[dict[str, float]]:
    """The figures of three steps with the game, in which the critic moves."""
    problem = load_problem(config_of(**GAME, **{"parallel.devices": devices}), tiny_dataset())
    state, run, losses = new_state(problem), compile_training(problem).epoch, []
    before = jax.device_get(state.method.carried.critic.params)
    for _ in range(3):
        state, metrics = run(state, 1)
        losses.append({name: float(value) for name, value in metrics.items()})
    after = jax.device_get(state.method.carried.critic.params)
    assert not np.array_equal(before["first_kernel"], after["first_kernel"])
    return losses


def test_the_game_is_a_part_of_the_loss():
    for step in played(1):
        assert {"adversarial", "critic_loss", "gradient_penalty"} <= set(step)
        without = step["ranking"] + 0.1 * step["user_contrast"] + 0.2 * step["item_contrast"]
        assert step["loss"] == pytest.approx(without + 0.5 * step["adversarial"], rel=1e-5)


@pytest.mark.slow
def test_the_game_does_not_depend_on_the_devices():
    for one, two in zip(played(1), played(2), strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-5)


def test_devices_that_cannot_share_what_is_drawn_are_told():
    with pytest.raises(ConfigError, match=r"contrast.nodes is 10, which 4 devices"):
        CrossView.build(config_of(), tiny_dataset(), 4)


# New users and items ----------------------------------------------------------------------------


def known_of(dataset, config):
    method, params = CrossView.build(config, dataset), random_params(dataset)
    inputs = method.inputs(dataset)
    state = state_of(method, params, inputs)
    return params, knowledge_of(method, state, inputs)


@pytest.mark.parametrize("off", ["with taste", "no users' view", "one hop, weighted"])
def test_a_new_user_is_a_row_more(off):
    """Dense NumPy, with the user's row under the matrix and zero as their own embedding."""
    dataset, config = tiny_dataset(), config_of(**OFF[off])
    view = config.view
    params, known = known_of(dataset, config)
    matrix = interactions(dataset)
    degree = matrix.sum(axis=0)
    trained = np.flatnonzero(degree)
    lists = [trained[:5], trained[7:8], np.append(trained[3:6], np.flatnonzero(degree == 0)[:1])]
    found = user_vectors(config, known, pad_pairs(lists, QueryBlocks(4, least_pairs=8)))
    layers = dense_layers(dataset, params, view.layers)
    one_less = dataclasses.replace(view, user_hops=max(view.user_hops - 1, 0))
    walked = dense_views(dataset, params, one_less)[0] if one_less.user_hops else params.view_users
    for row, items in zip(np.asarray(found), lists, strict=False):
        weights = np.zeros(dataset.n_items)
        weights[items] = quotient(np.ones(len(items)), np.sqrt(len(items) * degree[items]))
        expected = sum(weights @ of_items for _, of_items in layers[:-1]) / (view.layers + 1)
        if view.user_hops:
            shared = matrix[:, items].sum(axis=1)
            expected = expected + view.user_weight * unit(shared @ walked)
        taste = weights @ unit(dense_views(dataset, params, view)[1])
        expected = expected + view.taste_weight * unit(taste)
        np.testing.assert_allclose(row, expected, atol=2e-5)
    assert not np.any(found[3])


@pytest.mark.parametrize("off", ["whole", "one hop, weighted"])
def test_a_new_item_with_the_features_of_an_old_one_has_its_view(off):
    dataset, config = partial_dataset(), config_of(**OFF[off])
    params, known = known_of(dataset, config)
    items = np.arange(12)
    features = {m: jnp.asarray(x[items]) for m, x in dataset.features.items()}
    present = {m: jnp.asarray(dataset.presence[m][items]) for m in features}
    found = item_vectors(config, known, features, present)
    view = dense_views(dataset, params, config.view)[1][items]
    length = config.view.item_weight * (1 + config.view.lean)  # as of an item that nobody has
    np.testing.assert_allclose(found, length * unit(view), atol=2e-5)
    nothing = {m: jnp.zeros(12, bool) for m in features}
    assert not np.any(item_vectors(config, known, features, nothing))


# Known answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["softmax", "bpr"])
def test_the_item_of_the_own_colour_comes_first(kind):
    dataset = checkerboard()
    ones = np.random.default_rng(0).normal(size=(dataset.n_items, 3)).astype(np.float32)
    dataset = dataclasses.replace(dataset, features={"noise": ones})
    config = config_of(**{"softmax.kind": kind, "view.dim": 8, "optim.lr": 0.02})
    problem = load_problem(config, dataset)
    state, _ = compile_training(problem).epoch(new_state(problem), 300)
    vectors = compile_embedding(problem)(state)
    scores = np.array(vectors.users @ vectors.items.T)
    scores[*dataset.train.T] = -np.inf
    best = np.column_stack([np.arange(len(scores)), np.argmax(scores, axis=1)])
    np.testing.assert_array_equal(best, dataset.test)
