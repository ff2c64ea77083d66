import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.graph.bipartite import observed_graph
from mmssl_jax.methods.mmssl.encoders import FeatureEncoder, propagate_features
from tests.problems import (
    N_ITEMS,
    N_USERS,
    assert_close,
    edge_array,
    interaction_matrix,
    propagation_matrix,
    step_dataset,
)


@pytest.fixture(scope="module")
def encoded():
    """Raw features, encoder and parameters with nonzero biases."""
    features = {name: jnp.asarray(raw) for name, raw in step_dataset(3).features.items()}
    encoder = FeatureEncoder(dim=50, dropout=0.3)
    params = encoder.init(jax.random.key(0), features, True)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    return features, encoder, params


def test_encoding_is_a_linear_map_per_modality(encoded):
    features, encoder, params = encoded
    result = encoder.apply({"params": params}, features, True)

    assert set(params) == set(features)
    for name, raw in features.items():
        kernel, bias = np.asarray(params[name]["kernel"]), np.asarray(params[name]["bias"])
        assert_close(result[name], np.asarray(raw) @ kernel + bias, 1e-5)


def test_dropout_zeroes_its_share_and_scales_the_rest(encoded):
    features, encoder, params = encoded
    whole = encoder.apply({"params": params}, features, True)
    dropped = encoder.apply(
        {"params": params}, features, False, rngs={"dropout": jax.random.key(1)}
    )

    for name in features:
        kept = np.asarray(dropped[name]) != 0
        assert abs(kept.mean() - 0.7) < 0.05  # 1,150 entries: over 3 standard deviations
        np.testing.assert_allclose(
            np.asarray(dropped[name])[kept], np.asarray(whole[name])[kept] / 0.7, rtol=1e-5
        )
    assert not np.array_equal(dropped["m0"] != 0, dropped["m1"] != 0)


@pytest.mark.parametrize("normalization", ["receiver", "symmetric", "mean"])
def test_features_flow_to_users_and_back_to_items(normalization):
    matrix, rng = interaction_matrix(), np.random.default_rng(0)
    graph = observed_graph(edge_array(matrix), N_USERS, N_ITEMS, normalization)
    raw = {name: rng.normal(size=(N_ITEMS, 4)) for name in ("b", "a", "c")}

    of_users, of_items = propagate_features(
        graph, {name: jnp.asarray(x, jnp.float32) for name, x in raw.items()}, N_USERS
    )

    for name, x in raw.items():
        users = propagation_matrix(matrix, normalization) @ x
        assert_close(of_users[name], users, 1e-5)
        assert_close(of_items[name], propagation_matrix(matrix.T, normalization) @ users, 1e-5)
