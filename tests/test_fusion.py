import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.methods.mmssl.fusion import CrossModalAttention
from tests.problems import TOLERANCE, assert_close, precision

DIM, HEADS, N_NODES = 8, 2, 5


def build(n_modalities, values, dtype=jnp.float32):
    attention = CrossModalAttention(DIM, HEADS, values)
    raw = np.random.default_rng(0).normal(size=(n_modalities, N_NODES, DIM))
    embeddings = jnp.asarray(raw, dtype)
    params = attention.init(jax.random.key(0), list(embeddings))["params"]
    return attention, embeddings, jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def attention_by_loops(params, embeddings):
    """Unit rows of attention over modalities, one node, query, head and key at a time."""
    w_q, w_k, w_o = (np.asarray(params[name], float) for name in ("query", "key", "output"))
    n_modalities, n_nodes, dim = embeddings.shape
    width = dim // HEADS
    fused, weights = np.zeros((n_nodes, dim)), np.zeros((n_modalities, n_nodes))
    for node in range(n_nodes):
        for m in range(n_modalities):
            heads = []
            for h in range(HEADS):
                channels = slice(h * width, (h + 1) * width)
                query = (embeddings[m, node] @ w_q)[channels]
                keys = [(embeddings[other, node] @ w_k)[channels] for other in range(n_modalities)]
                logits = np.array([query @ key for key in keys]) / np.sqrt(width)
                share = np.exp(logits) / np.exp(logits).sum()
                heads.append(sum(s * e for s, e in zip(share, embeddings[:, node], strict=True)))
                weights[:, node] += share / (HEADS * n_modalities)
            fused[node] += np.concatenate(heads) @ w_o / n_modalities
    return unit(fused), weights


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("n_modalities", [1, 3])
def test_attention_with_values_on_the_keys(n_modalities, name):
    with precision(name) as dtype:
        attention, embeddings, params = build(n_modalities, "keys", dtype)
        fused, weights = attention.apply({"params": params}, list(embeddings))

    expected_fused, expected_weights = attention_by_loops(params, np.asarray(embeddings, float))
    assert_close(fused, expected_fused, TOLERANCE[name])
    assert_close(weights, expected_weights, TOLERANCE[name])
    np.testing.assert_allclose(np.asarray(weights).sum(axis=0), np.ones(N_NODES), rtol=1e-6)


def test_large_logits_do_not_overflow():
    attention, embeddings, params = build(2, "keys")
    fused, weights = attention.apply({"params": params}, list(1e4 * embeddings))
    assert np.all(np.isfinite(fused))
    np.testing.assert_allclose(np.asarray(weights).sum(axis=0), np.ones(N_NODES), rtol=1e-6)


def test_attention_with_values_on_the_queries_is_the_unit_row_of_a_plain_mean():
    attention, embeddings, params = build(3, "queries")
    fused, weights = attention.apply({"params": params}, list(embeddings))

    assert set(params) == {"output"}
    output = np.asarray(params["output"], float).reshape(HEADS, DIM, DIM).sum(axis=0)
    assert_close(fused, unit(np.asarray(embeddings, float).mean(axis=0) @ output), 1e-5)
    np.testing.assert_allclose(weights, np.full((3, N_NODES), 1 / 3), rtol=1e-6)


@pytest.mark.parametrize("values", ["keys", "queries"])
def test_a_zero_node_has_a_zero_row_and_leaves_the_gradients_finite(values):
    attention, embeddings, params = build(2, values)
    embeddings = embeddings.at[:, 1].set(0.0)
    pull = jnp.asarray(np.random.default_rng(1).normal(size=(N_NODES, DIM)), jnp.float32)

    def fused(params, embeddings):
        return attention.apply({"params": params}, list(embeddings))[0]

    rows, transpose = jax.vjp(fused, params, embeddings)
    of_params, of_embeddings = transpose(pull)

    np.testing.assert_array_equal(rows[1], np.zeros(DIM))
    for path, leaf in jax.tree_util.tree_leaves_with_path(of_params):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(leaf != 0), path
    assert np.all(of_embeddings[:, 1] == 0)
    others = np.delete(np.asarray(of_embeddings), 1, axis=1)
    assert np.all(np.isfinite(others))
    assert np.all(np.any(others != 0, axis=2))
