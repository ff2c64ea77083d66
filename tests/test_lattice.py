"""LATTICE against dense NumPy, its renewed graphs, and features that decide."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import override
from mmssl_jax.methods.lattice import Lattice, LatticeConfig, exchanged
from mmssl_jax.methods.trained import Step
from mmssl_jax.sampling import sample_batch
from tests.dense import (
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
from tests.problems import N_ITEMS, assert_close, precision, tiny_dataset

K, SHARE, WEIGHT = 4, 0.7, 0.2
CHANGES = {
    "data.format": "synthetic",
    "lattice.dim": 3,
    "lattice.k": K,
    "lattice.raw_share": SHARE,
    "lattice.regularization": WEIGHT,
    "optim.lr": 0.02,
    "sampling.batch_size": 12,
    "parallel.devices": 1,
}


def config_of(**changes):
    return override(LatticeConfig(), {**CHANGES, **changes})


def graph_of(near):
    """From cosines, NaN where there is no neighbour; those below 0 weigh nothing."""
    return symmetric_matrix(np.maximum(np.nan_to_num(near, nan=0.0), 0.0))


def projected(params, dataset):
    found = {}
    for m, x in features_of(dataset).items():
        layer = params.projections[m]
        found[m] = np.where(dataset.presence[m][:, None], x @ layer.kernel + layer.bias, 0.0)
    return found


def dense_vectors(params, dataset, layers):
    users, items = mean_of_rounds(dataset.train, params.users, params.items, 2)
    shares = np.exp(list(params.mixture.values()))
    whole, z = np.zeros((N_ITEMS, N_ITEMS)), projected(params, dataset)
    for share, (m, x) in zip(shares / shares.sum(), features_of(dataset).items(), strict=True):
        raw, new = graph_of(nearest_matrix(x, K)), graph_of(nearest_matrix(z[m], K))
        whole += share * (SHARE * raw + (1 - SHARE) * new)
    alike = np.linalg.matrix_power(whole, layers) @ params.items
    norms = np.linalg.norm(alike, axis=1, keepdims=True)
    return users, items + alike / np.where(norms > 0, norms, 1.0)


def dense_loss(params, dataset, triples, layers):
    users, items = dense_vectors(params, dataset, layers)
    squares = half_squares(users, items, triples)
    return ranking_loss(users, items, triples) + WEIGHT * squares


@pytest.mark.parametrize("layers", [1, 2])
def test_loss_and_gradient_are_those_of_dense_numpy(layers):
    dataset, key = partial_step_dataset(), jax.random.key(3)
    with precision("float64") as dtype:
        method = Lattice.build(config_of(**{"lattice.item_layers": layers}), dataset)
        inputs = method.inputs(dataset)
        state = jax.jit(method.init)(key, inputs)
        state = state._replace(params=random_like(state.params, dtype))
        state = jax.jit(method.start_epoch)(state, inputs)
        batch = sample_batch(key, inputs.rows, 12, N_ITEMS, "interaction", "trained")
        step = Step(batch, key, state.carried)
        (loss, _), gradient = jax.jit(jax.value_and_grad(method.loss, has_aux=True))(
            state.params, step, inputs
        )
        found = method.embed(state, inputs)
        params, triples = jax.tree.map(np.asarray, state.params), np.stack(batch, axis=1)
        assert_close(tuple(found), dense_vectors(params, dataset, layers), 1e-6)
        dense = functools.partial(dense_loss, dataset=dataset, triples=triples, layers=layers)
        assert float(loss) == pytest.approx(dense(params), rel=1e-6)
        numeric = numeric_gradient(dense, params)
        assert all(np.any(leaf) for leaf in jax.tree.leaves(numeric))
        assert_close(gradient, numeric, 1e-5)


def test_an_item_without_any_modality_has_the_base_models_vector():
    dataset = partial_step_dataset()
    assert not any(present[5] for present in dataset.presence.values())
    method = Lattice.build(config_of(), dataset)
    inputs = method.inputs(dataset)
    state = jax.jit(method.init)(jax.random.key(0), inputs)
    base = mean_of_rounds(dataset.train, *map(np.asarray, state.params[:2]), 2)[1]
    np.testing.assert_allclose(method.embed(state, inputs).items[5], base[5], rtol=1e-5)


def test_an_epoch_looks_for_neighbours_by_its_own_projections():
    method = Lattice.build(config_of(), tiny_dataset())
    inputs = method.inputs(tiny_dataset())
    state = jax.jit(method.init)(jax.random.key(0), inputs)
    other = jax.jit(method.init)(jax.random.key(1), inputs)
    moved = jax.jit(method.start_epoch)(state._replace(params=other.params), inputs)
    for m, near in other.carried.items():
        np.testing.assert_array_equal(moved.carried[m].items, near.items)
        assert np.any(near.items != state.carried[m].items)


def test_random_neighbours_leave_no_item_its_own_features():
    """Those of others that have the modality; nothing is invented."""
    dataset = partial_step_dataset()
    method = Lattice.build(config_of(**{"data.neighbours": "random"}), dataset)
    plain = Lattice.build(config_of(), dataset).inputs(dataset).features
    for m, rows in method.inputs(dataset).features.items():
        present = dataset.presence[m]
        assert np.mean(np.all(rows == plain[m], axis=1)[present]) < 0.2
        np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(plain[m], axis=0))
        assert not np.any(rows[~present])
    same = exchanged(plain, {m: jnp.asarray(p) for m, p in dataset.presence.items()}, 0)
    np.testing.assert_array_equal(same["m0"], method.inputs(dataset).features["m0"])


def test_features_tell_who_likes_a_new_item():
    changes = {"lattice.dim": 8, "sampling.batch_size": 48, "lattice.regularization": 1e-4}
    assert np.all(new_items_margins(config_of(**changes)) > 0.1)
