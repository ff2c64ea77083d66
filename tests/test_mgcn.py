"""MGCN against dense NumPy, nodes that lack a modality, and features that decide."""

import functools

import jax
import numpy as np
import pytest

from mmssl_jax.config import override
from mmssl_jax.methods.mgcn import MGCN, MGCNConfig
from mmssl_jax.methods.trained import Step
from mmssl_jax.sampling import sample_batch
from tests.dense import (
    cosine,
    features_of,
    half_squares,
    mean_of_rounds,
    nearest_matrix,
    new_items_margins,
    numeric_gradient,
    partial_step_dataset,
    random_like,
    ranking_loss,
    symmetric_matrix,
)
from tests.problems import (
    N_ITEMS,
    assert_close,
    interaction_matrix,
    precision,
    propagation_matrix,
)

K, WEIGHT, CONTRAST, TEMPERATURE = 4, 0.2, 0.3, 0.4
CHANGES = {
    "data.format": "synthetic",
    "mgcn.dim": 3,
    "mgcn.k": K,
    "mgcn.regularization": WEIGHT,
    "mgcn.contrast": CONTRAST,
    "mgcn.temperature": TEMPERATURE,
    "optim.lr": 0.02,
    "sampling.batch_size": 12,
    "parallel.devices": 1,
}


def config_of(**changes):
    return override(MGCNConfig(), {**CHANGES, **changes})


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def item_graphs(dataset):
    """S_m of each modality."""
    near = {m: nearest_matrix(x, K) for m, x in features_of(dataset).items()}
    return {m: symmetric_matrix(np.maximum(np.nan_to_num(n, nan=0.0), 0)) for m, n in near.items()}


def dense_side(params, of_modality, base, has):
    """One node at a time, over the modalities that it has."""
    side = np.zeros(base.shape)
    for n, c in enumerate(base):
        mine = {m: h[n] for m, h in of_modality.items() if has[m][n]}
        if not mine:
            continue
        scores = {
            m: np.exp(params.query @ np.tanh(h @ params.attention.kernel + params.attention.bias))
            for m, h in mine.items()
        }
        common = sum(scores[m] / sum(scores.values()) * h for m, h in mine.items())
        total = common
        for m, h in mine.items():
            layer = params.preferences[m]
            total = total + sigmoid(c @ layer.kernel + layer.bias) * (h - common)
        side[n] = total / (len(mine) + 1)
    return side


def dense_parts(params, dataset, graphs):
    to_users = propagation_matrix(interaction_matrix(), "symmetric")
    base = mean_of_rounds(dataset.train, params.users, params.items, 2)
    of_items, of_users, users_have = {}, {}, {}
    for m, x in features_of(dataset).items():
        w, g = params.projections[m], params.gates[m]
        gate = sigmoid((x @ w.kernel + w.bias) @ g.kernel + g.bias)
        of_items[m] = graphs[m] @ (params.items * gate)
        of_users[m] = to_users @ of_items[m]
        users_have[m] = (interaction_matrix() * dataset.presence[m]).sum(axis=1) > 0
    sides = (
        dense_side(params, of_users, base[0], users_have),
        dense_side(params, of_items, base[1], dataset.presence),
    )
    return base, sides


def dense_contrast(side, base, nodes):
    losses = []
    for n in set(nodes.tolist()):
        f = {c: np.exp(cosine(side[n], base[c]) / TEMPERATURE) for c in set(nodes.tolist())}
        losses.append(-np.log(f[n] / sum(f.values())))
    return np.mean(losses)


def dense_loss(params, dataset, triples, graphs):
    base, side = dense_parts(params, dataset, graphs)
    users, items = (b + s for b, s in zip(base, side, strict=True))
    loss = ranking_loss(users, items, triples) + WEIGHT * half_squares(users, items, triples)
    for place in (0, 1):  # users, positives
        loss += CONTRAST * dense_contrast(side[place], base[place], triples[:, place])
    return loss


def test_loss_and_gradient_are_those_of_dense_numpy():
    dataset, key = partial_step_dataset(), jax.random.key(3)
    with precision("float64") as dtype:
        method = MGCN.build(config_of(), dataset)
        inputs = method.inputs(dataset)
        state = jax.jit(method.init)(key, inputs)
        state = state._replace(params=random_like(state.params, dtype))
        batch = sample_batch(key, inputs.rows, 12, N_ITEMS, "interaction", "trained")
        triples = np.stack(batch, axis=1)
        assert len(np.unique(triples[:, 0])) < len(triples)
        (loss, _), gradient = jax.jit(jax.value_and_grad(method.loss, has_aux=True))(
            state.params, Step(batch, key, ()), inputs
        )
        found = method.embed(state, inputs)
        params, graphs = jax.tree.map(np.asarray, state.params), item_graphs(dataset)
        base, side = dense_parts(params, dataset, graphs)
        assert_close(tuple(found), tuple(b + s for b, s in zip(base, side, strict=True)), 1e-6)
        dense = functools.partial(dense_loss, dataset=dataset, triples=triples, graphs=graphs)
        assert float(loss) == pytest.approx(dense(params), rel=1e-6)
        numeric = numeric_gradient(dense, params)
        assert all(np.any(leaf) for leaf in jax.tree.leaves(numeric))
        assert_close(gradient, numeric, 1e-5)


def test_features_tell_who_likes_a_new_item():
    changes = {"mgcn.dim": 8, "sampling.batch_size": 48, "mgcn.regularization": 1e-4}
    changes |= {"mgcn.contrast": 1e-2}
    assert np.all(new_items_margins(config_of(**changes)) > 0.1)


def test_what_ranks_is_finite_without_any_feature_that_is_not_0():
    """Nobody has a modality: what ranks are LightGCN's vectors."""
    dataset = partial_step_dataset()
    dataset.features.update({m: 0 * x for m, x in dataset.features.items()})
    method = MGCN.build(config_of(), dataset)
    inputs = method.inputs(dataset)
    state = jax.jit(method.init)(jax.random.key(0), inputs)
    found = method.embed(state, inputs)
    base = mean_of_rounds(dataset.train, *map(np.asarray, state.params[:2]), 2)
    assert_close(tuple(found), base, 1e-5)
