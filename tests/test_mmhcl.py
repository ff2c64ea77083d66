"""MMHCL against dense NumPy, samples of its contrast, and features that decide."""

import functools

import jax
import numpy as np
import pytest

from mmssl_jax.config import override
from mmssl_jax.methods.mmhcl import MMHCL, MMHCLConfig
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
)
from tests.problems import N_ITEMS, N_USERS, assert_close, interaction_matrix, precision

K, WEIGHT, OF_USERS, OF_ITEMS, TEMPERATURE = 4, 0.2, 0.3, 0.5, 0.4
CHANGES = {
    "data.format": "synthetic",
    "mmhcl.dim": 3,
    "mmhcl.k": K,
    "mmhcl.regularization": WEIGHT,
    "mmhcl.user_contrast": OF_USERS,
    "mmhcl.item_contrast": OF_ITEMS,
    "mmhcl.temperature": TEMPERATURE,
    "optim.lr": 0.02,
    "sampling.batch_size": 6,
    "parallel.devices": 1,
}


def config_of(**changes):
    return override(MMHCLConfig(), {**CHANGES, **changes})


def view_matrices(dataset):
    """W_U [U, U] and W_I [I, I], entry by entry."""
    matrix = interaction_matrix()
    of_users = np.zeros((N_USERS, N_USERS))
    for a, b in np.ndindex(of_users.shape):
        of_users[a, b] = matrix[a] @ matrix[b] if a != b else 0
    of_users /= np.maximum(of_users.sum(axis=1, keepdims=True), 1)
    incidence = np.concatenate(
        [~np.isnan(nearest_matrix(x, K)) for x in features_of(dataset).values()], axis=1
    )
    shared, of_items = np.zeros((N_ITEMS, N_ITEMS)), np.zeros((N_ITEMS, N_ITEMS))
    for i, j in np.ndindex(shared.shape):
        shared[i, j] = np.sum(incidence[i] & incidence[j])
    degree = shared.sum(axis=1)
    for i, j in np.argwhere(shared):
        of_items[i, j] = shared[i, j] * (degree[i] * degree[j]) ** -0.5
    return of_users, of_items


def unit(x):
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms > 0, norms, 1.0)


def dense_vectors(params, dataset, matrices):
    users, items = mean_of_rounds(dataset.train, params.users, params.items, 2)
    of_users = np.linalg.matrix_power(matrices[0], 3) @ params.view_users
    of_items = np.linalg.matrix_power(matrices[1], 2) @ params.view_items
    return (users + unit(of_users), items + unit(of_items)), (of_users, of_items)


def dense_contrast(vectors, views):
    losses = []
    for n, z in enumerate(vectors):
        f = [np.exp(cosine(z, q) / TEMPERATURE) for q in views]
        others = [np.exp(cosine(z, x) / TEMPERATURE) for x in np.delete(vectors, n, axis=0)]
        losses.append(-np.log(f[n] / (sum(f) + sum(others))))
    return np.mean(losses)


def dense_loss(params, dataset, triples, matrices):
    (users, items), (of_users, of_items) = dense_vectors(params, dataset, matrices)
    loss = ranking_loss(users, items, triples) + WEIGHT * half_squares(users, items, triples)
    loss += OF_USERS * dense_contrast(users, of_users)
    return loss + OF_ITEMS * dense_contrast(items, of_items)


def test_loss_and_gradient_are_those_of_dense_numpy():
    dataset, key = partial_step_dataset(), jax.random.key(3)
    with precision("float64") as dtype:
        method = MMHCL.build(config_of(), dataset)
        inputs = method.inputs(dataset)
        state = jax.jit(method.init)(key, inputs)
        state = state._replace(params=random_like(state.params, dtype))
        batch = sample_batch(key, inputs.rows, 6, N_ITEMS, "user")
        (loss, _), gradient = jax.jit(jax.value_and_grad(method.loss, has_aux=True))(
            state.params, Step(batch, key, ()), inputs
        )
        found = method.embed(state, inputs)
        params, triples = jax.tree.map(np.asarray, state.params), np.stack(batch, axis=1)
        matrices = view_matrices(dataset)
        assert_close(tuple(found), dense_vectors(params, dataset, matrices)[0], 1e-6)
        dense = functools.partial(dense_loss, dataset=dataset, triples=triples, matrices=matrices)
        assert float(loss) == pytest.approx(dense(params), rel=1e-6)
        assert_close(gradient, numeric_gradient(dense, params), 1e-5)


def test_a_sample_of_nodes_is_contrasted_with_itself_alone():
    """With two nodes the loss of each has three terms; on average over draws, that of all pairs."""
    vectors, views = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    method = MMHCL.build(config_of(**{"mmhcl.contrast_nodes": 2}), partial_step_dataset())
    contrast = jax.jit(jax.vmap(method.contrast, in_axes=(0, None, None)))
    drawn = contrast(jax.random.split(jax.random.key(0), 200), vectors, views)
    pairs = [[a, b] for a in range(4) for b in range(a)]
    expected = np.sort([dense_contrast(vectors[p], views[p]) for p in pairs])
    found = np.unique(np.round(np.asarray(drawn), 4))
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_more_nodes_than_there_are_are_all():
    vectors, views = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    for nodes in (0, 4, 9):
        changes = {"mmhcl.contrast_nodes": nodes}
        method = MMHCL.build(config_of(**changes), partial_step_dataset())
        found = method.contrast(jax.random.key(0), *map(jax.numpy.asarray, (vectors, views)))
        assert float(found) == pytest.approx(dense_contrast(vectors, views), rel=1e-5)


def test_features_tell_who_likes_a_new_item():
    changes = {"mmhcl.dim": 8, "sampling.batch_size": 12, "mmhcl.regularization": 1e-3}
    changes |= {"mmhcl.user_contrast": 0.03, "mmhcl.item_contrast": 0.07}
    changes |= {"sampling.negatives": "trained"}
    assert np.all(new_items_margins(config_of(**changes)) > 0.1)
