"""Vectors of new users and items against the model itself and against NumPy by loops."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.methods.mmssl.inductive import (
    Knowledge,
    item_vectors,
    knowledge_of,
    user_features,
    user_vectors,
)
from mmssl_jax.methods.mmssl.model import Embeddings
from mmssl_jax.methods.mmssl.renewal import rebuild_for_all
from mmssl_jax.methods.mmssl.state import State, forward
from mmssl_jax.recommend.rank import QueryBlocks, pad_pairs
from mmssl_jax.training.problem import Problem, load_problem, new_state
from tests.problems import partial_dataset, tiny_config, tiny_dataset

OTHER = {
    "model.feature_normalization": "symmetric",
    "model.id_normalization": "symmetric",
    "model.propagation_order": "simultaneous",
    "model.last_layer_softmax": True,
    "model.attention_values": "queries",
    "structure.similarity": "dot",
    "structure.mask_observed": True,
}
SETTINGS = {
    "paper": {},
    "other": OTHER,
    "mean": {"model.feature_normalization": "mean"},
    "paper, masks": {},
    "other, masks": OTHER,
}


class Made(NamedTuple):
    problem: Problem
    state: State
    embeddings: Embeddings
    known: Knowledge


@pytest.fixture(scope="module", params=SETTINGS)
def made(request) -> Made:
    """A problem, and its model with the learned graphs of its own parameters."""
    config = tiny_config(changes={**SETTINGS[request.param], "game.weight": 0.0})
    problem = load_problem(
        config, partial_dataset() if "masks" in request.param else tiny_dataset()
    )
    method, inputs = problem.method, problem.inputs
    state = new_state(problem).method
    # A bias that starts at zero would hide whether it is added.
    encoder = {
        m: {"kernel": leaf["kernel"], "bias": leaf["bias"] + 0.3}
        for m, leaf in state.generator["encoder"].items()
    }
    state = state._replace(generator={**state.generator, "encoder": encoder})
    first = forward(method, state.generator, state.learned, inputs, None)
    state = rebuild_for_all(method, state, first, inputs)
    embeddings = forward(method, state.generator, state.learned, inputs, None)
    return Made(problem, state, embeddings, knowledge_of(method, state, inputs))


def test_a_training_user_by_their_items_lacks_their_own_embedding_alone(made):
    """Everything but the user's own ID embedding is the model's own vector, exactly."""
    config, train = made.problem.config, made.problem.dataset.train
    users = np.unique(train[:, 0])
    lists = [train[train[:, 0] == user, 1] for user in users]
    rows = pad_pairs(lists, QueryBlocks(len(users) + 3, least_pairs=8))
    vectors = user_vectors(config, made.known, rows)
    own = made.state.generator["user_embedding"][users] / (config.model.gnn_layers + 1)
    expected = made.embeddings.user[users] - own
    np.testing.assert_allclose(vectors[: len(users)], expected, rtol=1e-4, atol=1e-5)
    assert np.abs(own).max() > 0.05  # so that leaving it in would be seen
    assert not np.asarray(vectors[len(users) :]).any()


def test_a_training_user_by_their_items_has_their_own_features(made):
    problem, train = made.problem, made.problem.dataset.train
    users = np.unique(train[:, 0])
    lists = [train[train[:, 0] == user, 1] for user in users]
    rows = pad_pairs(lists, QueryBlocks(len(users), least_pairs=8))
    features = user_features(problem.config, made.known, rows)
    for m, of_users in made.embeddings.feature_user.items():
        np.testing.assert_allclose(features[m], of_users[users], rtol=1e-5, atol=1e-6)
    if problem.dataset.presence:
        place = users.tolist().index(3)
        assert not np.asarray(features["visual"][place]).any()
        assert np.asarray(features["acoustic"][place]).any()


def unit(x):
    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(norms > 0, norms, 1)


def attention(params, stack, config):
    """[M, D] of one node -> [D], head by head."""
    n_modalities, width = len(stack), config.dim // config.heads
    heads = []
    for h in range(config.heads):
        part = slice(h * width, (h + 1) * width)
        if config.attention_values == "queries":
            weights = np.full(n_modalities, 1 / n_modalities)
        else:
            logits = (stack @ params["query"])[:, part] @ (stack @ params["key"])[:, part].T
            weights = np.exp(logits / np.sqrt(width))
            weights = (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)
        heads.append(weights @ stack)
    return np.concatenate(heads) @ params["output"]


def test_new_items_by_loops(made):
    """Four items: one with all modalities, one without each, and another with all."""
    problem, generator = made.problem, made.state.generator
    user_layers = list(made.known.user_layers.values())
    model, k = problem.config.model, problem.config.structure.k
    rng = np.random.default_rng(0)
    raw = {m: rng.normal(size=(4, x.shape[1])) for m, x in problem.dataset.features.items()}
    params = {
        m: {name: np.asarray(leaf) for name, leaf in generator["encoder"][m].items()} for m in raw
    }
    encoded = {m: x @ params[m]["kernel"] + params[m]["bias"] for m, x in raw.items()}
    has = {m: np.arange(4) != lacking for lacking, m in enumerate(raw, start=1)}
    degree = np.bincount(problem.dataset.train[:, 0], minlength=problem.dataset.n_users)
    attend = {name: np.asarray(leaf) for name, leaf in generator["attention"].items()}
    ids = np.asarray(generator["user_embedding"])
    expected = []
    for item in range(4):
        learned, rounds = [], np.zeros((model.gnn_layers, model.dim))
        for m, x in encoded.items():
            if not has[m][item]:
                learned.append(np.zeros(model.dim))
                continue
            features = np.asarray(made.embeddings.feature_user[m])
            trained_users = np.flatnonzero(features.any(axis=1))
            features = features[trained_users]
            order = np.argsort(-unit(features) @ unit(x[item]), kind="stable")[:k]
            near = trained_users[order]
            learned.append(ids[near].sum(axis=0) / np.sqrt(k))
            for layer in range(model.gnn_layers):
                for user in near:
                    symmetric = model.id_normalization == "symmetric"
                    weight = (k * (degree[user] if symmetric else 1)) ** -0.5
                    rounds[layer] += weight * np.asarray(user_layers[layer][user])
        rounds /= sum(has[m][item] for m in has)
        if model.last_layer_softmax:
            rounds[-1] = np.exp(rounds[-1]) / np.exp(rounds[-1]).sum()
        first = model.id_fusion * unit(attention(attend, np.stack(learned), model))
        mean = (first + rounds.sum(axis=0)) / (model.gnn_layers + 1)
        features = sum(unit(x[item]) for m, x in encoded.items() if has[m][item])
        expected.append(mean + model.feature_fusion * features)
    raw = {m: jnp.asarray(x, jnp.float32) for m, x in raw.items()}
    there = {m: jnp.asarray(x) for m, x in has.items()}
    actual = item_vectors(problem.config, made.known, raw, there)
    np.testing.assert_allclose(actual, np.stack(expected), rtol=1e-4, atol=1e-5)


def test_the_gathered_layers_are_those_of_the_model(made):
    """Users gather what items were; with users_first, items gather what users have become."""
    problem, known = made.problem, made.known
    model, train = problem.config.model, problem.dataset.train
    degree_u = np.bincount(train[:, 0], minlength=problem.dataset.n_users)
    degree_i = np.bincount(train[:, 1], minlength=problem.dataset.n_items)
    by_items = np.asarray(next(iter(known.item_layers.values())))
    user = int(train[0, 0])
    own = train[train[:, 0] == user, 1]
    weights = degree_u[user] ** -0.5 * np.ones(len(own))
    if model.id_normalization == "symmetric":
        weights = weights * degree_i[own] ** -0.5
    after_one_round = weights @ by_items[own]
    place = 0 if model.propagation_order == "users_first" else 1
    np.testing.assert_allclose(
        list(known.user_layers.values())[place][user], after_one_round, rtol=1e-4
    )
