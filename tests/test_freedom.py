"""FREEDOM against dense NumPy, its thinned graphs, and features that decide."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import ConfigError, override
from mmssl_jax.methods.freedom import Freedom, FreedomConfig, draw_edges
from mmssl_jax.methods.trained import Step
from mmssl_jax.sampling import sample_batch
from tests.dense import (
    features_of,
    mean_of_rounds,
    nearest_matrix,
    new_items_margins,
    numeric_gradient,
    partial_step_dataset,
    random_like,
    ranking_loss,
)
from tests.problems import N_ITEMS, assert_close, precision, tiny_dataset

K, WEIGHTS, LAMBDA = 4, {"m0": 0.2, "m1": 0.6}, 0.3
CHANGES = {
    "data.format": "synthetic",
    "freedom.dim": 3,
    "freedom.k": K,
    "freedom.modality_weights": tuple(WEIGHTS.values()),
    "freedom.dropped": 0.5,
    "freedom.feature_weight": LAMBDA,
    "optim.lr": 0.02,
    "sampling.batch_size": 12,
    "parallel.devices": 1,
}


def config_of(**changes):
    return override(FreedomConfig(), {**CHANGES, **changes})


def item_weights(features):
    """S [I, I]: 0.2 and 0.6 weigh 1/4 and 3/4 where an item has both modalities."""
    near = {m: nearest_matrix(x, K) for m, x in features.items()}
    weights = np.zeros((N_ITEMS, N_ITEMS))
    for i in range(N_ITEMS):
        has = [m for m in near if not np.all(np.isnan(near[m][i]))]
        for m in has:
            for j in np.flatnonzero(~np.isnan(near[m][i])):
                weights[i, j] += WEIGHTS[m] / sum(WEIGHTS[n] for n in has) / K
    return weights


def dense_vectors(params, edges, weights):
    users, items = mean_of_rounds(edges, params.users, params.items, 2)
    return users, items + weights @ params.items


def dense_loss(params, edges, dataset, triples, weights):
    features = features_of(dataset)
    users, items = dense_vectors(params, edges, weights)
    loss = ranking_loss(users, items, triples)
    for m, kernel in params.projections.items():
        for u, i, j in triples:
            both = dataset.presence[m][i] and dataset.presence[m][j]
            margin = users[u] @ kernel.T @ (features[m][i] - features[m][j]) if both else 0.0
            loss += LAMBDA * np.log1p(np.exp(-margin)) / len(triples)
    return loss


def test_loss_and_gradient_are_those_of_dense_numpy():
    dataset, key = partial_step_dataset(), jax.random.key(3)
    with precision("float64") as dtype:
        method = Freedom.build(config_of(), dataset)
        inputs = method.inputs(dataset)
        state = jax.jit(method.init)(key, inputs)
        params = random_like(state.params, dtype)
        batch = sample_batch(key, inputs.rows, 12, N_ITEMS, "interaction", "trained")
        triples = np.stack(batch, axis=1)
        graph = state.carried.graph.to_users
        edges = np.stack([graph.receivers, graph.senders], axis=1)
        assert len(edges) == len(dataset.train) // 2
        (loss, _), gradient = jax.jit(jax.value_and_grad(method.loss, has_aux=True))(
            params, Step(batch, key, state.carried), inputs
        )
        found = method.embed(state._replace(params=params), inputs)
        params, weights = jax.tree.map(np.asarray, params), item_weights(features_of(dataset))
        assert_close(tuple(found), dense_vectors(params, dataset.train, weights), 1e-7)
        dense = functools.partial(
            dense_loss, edges=edges, dataset=dataset, triples=triples, weights=weights
        )
        assert float(loss) == pytest.approx(dense(params), rel=1e-7)
        assert_close(gradient, numeric_gradient(dense, params), 1e-6)


def test_each_epoch_has_other_edges_of_the_data():
    method = Freedom.build(config_of(), tiny_dataset())
    inputs = method.inputs(tiny_dataset())
    state, seen = jax.jit(method.init)(jax.random.key(0), inputs), []
    renewed = jax.jit(method.start_epoch)
    known = {tuple(edge) for edge in tiny_dataset().train.tolist()}
    for _ in range(3):
        graph = state.carried.graph.to_users
        edges = set(zip(graph.receivers.tolist(), graph.senders.tolist(), strict=True))
        assert len(edges) == len(known) // 2
        assert edges < known
        seen.append(edges)
        state = renewed(state, inputs)
    assert seen[0] != seen[1] != seen[2] != seen[0]


def test_edges_are_drawn_in_proportion_to_their_weights_and_never_twice():
    """Of weights 1, 2 and 5, a pair is {a, b} with p_a p_b / (1 - p_a) + p_b p_a / (1 - p_b)."""
    p = np.array([1, 2, 5]) / 8
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = np.asarray(jax.vmap(lambda key: draw_edges(key, jnp.log(p * 3.0), 2))(keys))
    assert np.all(drawn[:, 0] != drawn[:, 1])
    for left_out, (a, b) in enumerate([(1, 2), (0, 2), (0, 1)]):
        expected = p[a] * p[b] * (1 / (1 - p[a]) + 1 / (1 - p[b]))
        share = np.mean(np.sum(drawn, axis=1) == 3 - left_out)
        assert share == pytest.approx(expected, abs=0.015)  # four standard errors


def test_no_edge_is_dropped_at_0():
    method = Freedom.build(config_of(**{"freedom.dropped": 0.0}), tiny_dataset())
    inputs = method.inputs(tiny_dataset())
    state = jax.jit(method.init)(jax.random.key(0), inputs)
    first, all_edges = method.vectors(state.params, state.carried.graph, inputs), inputs.graph
    assert_close(tuple(first), tuple(method.vectors(state.params, all_edges, inputs)), 1e-5)


@pytest.mark.parametrize("weights", [(0.5,), (1.0, 2.0, 3.0), (0.0, 0.0)])
def test_weights_that_do_not_fit_the_modalities_are_refused(weights):
    method = Freedom.build(config_of(**{"freedom.modality_weights": weights}), tiny_dataset())
    with pytest.raises(ConfigError, match="expected 2 numbers, not all 0, for acoustic, visual"):
        method.inputs(tiny_dataset())


def test_features_tell_who_likes_a_new_item():
    changes = {"freedom.dim": 8, "sampling.batch_size": 48, "freedom.modality_weights": ()}
    assert np.all(new_items_margins(config_of(**changes)) > 0.1)
