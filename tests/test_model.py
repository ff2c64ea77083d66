import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.graph.bipartite import observed_graph
from mmssl_jax.methods.mmssl.config import ModelConfig
from mmssl_jax.methods.mmssl.model import (
    Generator,
    ObservedGraphs,
    final_embedding,
    id_layers,
)
from tests.problems import (
    N_ITEMS,
    N_USERS,
    PRECISIONS,
    TOLERANCE,
    assert_close,
    edge_array,
    interaction_matrix,
    precision,
    propagation_matrix,
    step_dataset,
)

MATRIX = interaction_matrix()
LEARNED = {m: interaction_matrix(seed) for m, seed in (("m0", 11), ("m1", 12))}


def softmax(x):
    weights = np.exp(x - x.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def unit(x):
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms > 0, norms, 1)


def light_gcn(users, items, config):
    to_users = propagation_matrix(MATRIX, config.id_normalization)
    to_items = propagation_matrix(MATRIX.T, config.id_normalization)
    layers = [(users, items)]
    for layer in range(config.gnn_layers):
        old_users, old_items = layers[-1]
        last = config.last_layer_softmax and layer + 1 == config.gnn_layers
        new_users = softmax(to_users @ old_items) if last else to_users @ old_items
        sender = new_users if config.propagation_order == "users_first" else old_users
        new_items = softmax(to_items @ sender) if last else to_items @ sender
        layers.append((new_users, new_items))
    return tuple(np.mean(side, axis=0) for side in zip(*layers, strict=True))


@pytest.mark.parametrize("softened", [False, True])
@pytest.mark.parametrize("order", ["users_first", "simultaneous"])
@pytest.mark.parametrize(
    ("n_layers", "normalization"), [(0, "mean"), (1, "mean"), (3, "symmetric")]
)
def test_light_gcn(n_layers, normalization, order, softened):
    config = ModelConfig(
        gnn_layers=n_layers,
        id_normalization=normalization,
        propagation_order=order,
        last_layer_softmax=softened,
    )
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(N_USERS, 5)), rng.normal(size=(N_ITEMS, 5))
    graph = observed_graph(edge_array(MATRIX), N_USERS, N_ITEMS, normalization)

    vectors = (jnp.asarray(x, jnp.float32) for x in (users, items))
    layers = jax.jit(lambda *x: id_layers(graph, *x, config))(*vectors)

    assert len(layers) == n_layers + 1
    actual = tuple(final_embedding(side, {}, config) for side in zip(*layers, strict=True))
    assert_close(actual, light_gcn(users, items, config), 1e-5)


def attention(params, embeddings, config):
    """Values on the keys; see test_fusion for the same by loops."""
    stack = np.stack(embeddings)  # [M, N, D]
    by_head = (len(stack), -1, config.heads, config.dim // config.heads)
    if config.attention_values == "keys":
        queries = (stack @ params["query"]).reshape(by_head)
        keys = (stack @ params["key"]).reshape(by_head)
        logits = np.einsum("qnhd,knhd->qhnk", queries, keys) / np.sqrt(by_head[-1])
        weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    else:
        weights = np.full((1, config.heads, stack.shape[1], len(stack)), 1 / len(stack))
    mixed = np.einsum("qhnk,knd->qnhd", weights, stack).reshape(len(weights), stack.shape[1], -1)
    return (mixed @ params["output"]).mean(axis=0)


def forward_by_hand(params, features, config):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
    to_users = propagation_matrix(MATRIX, config.feature_normalization)
    to_items = propagation_matrix(MATRIX.T, config.feature_normalization)
    user_ids, item_ids = params["user_embedding"], params["item_embedding"]
    result = {"feature_user": {}, "feature_item": {}, "id_user": {}, "id_item": {}}
    result |= {"initial_user": user_ids, "initial_item": item_ids}
    for m, raw in features.items():
        encoded = raw @ params["encoder"][m]["kernel"] + params["encoder"][m]["bias"]
        result["feature_user"][m] = to_users @ encoded
        result["feature_item"][m] = to_items @ result["feature_user"][m]
        result["id_user"][m] = propagation_matrix(LEARNED[m], "receiver") @ item_ids
        result["id_item"][m] = propagation_matrix(LEARNED[m].T, "receiver") @ user_ids
    fused = [
        attention(params["attention"], list(result[side].values()), config)
        for side in ("id_user", "id_item")
    ]
    vectors = light_gcn(
        user_ids + config.id_fusion * unit(fused[0]),
        item_ids + config.id_fusion * unit(fused[1]),
        config,
    )
    for side, vector in zip(("user", "item"), vectors, strict=True):
        units = sum(unit(x) for x in result[f"feature_{side}"].values())
        result[side] = vector + config.feature_fusion * units
    return result


def build(config, dtype=jnp.float32):
    edges = edge_array(MATRIX)
    observed = ObservedGraphs(
        observed_graph(edges, N_USERS, N_ITEMS, config.feature_normalization),
        observed_graph(edges, N_USERS, N_ITEMS, config.id_normalization),
    )
    learned = {
        m: observed_graph(edge_array(matrix), N_USERS, N_ITEMS, "receiver")
        for m, matrix in LEARNED.items()
    }
    features = {m: jnp.asarray(x, dtype) for m, x in step_dataset().features.items()}
    model = Generator(N_USERS, N_ITEMS, config)
    params = jax.jit(
        lambda: model.init(jax.random.key(0), features, observed, learned, True)["params"]
    )()
    params = jax.tree.map(lambda leaf: leaf.astype(dtype) + 0.1, params)

    @jax.jit
    def forward(params, key=None):
        rngs = None if key is None else {"dropout": key}
        return model.apply({"params": params}, features, observed, learned, key is None, rngs=rngs)

    return forward, params


CONFIGS = {
    "paper": ModelConfig(dim=8, heads=2),
    "released": ModelConfig(dim=8, heads=2, attention_values="queries", last_layer_softmax=True),
    "mixed": ModelConfig(
        dim=8, heads=4, id_normalization="symmetric", feature_normalization="mean", gnn_layers=1
    ),
}


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_whole_forward_pass_by_hand(config, name):
    with precision(name) as dtype:
        forward, params = build(config, dtype)
        embeddings = forward(params)

    expected = forward_by_hand(params, step_dataset().features, config)
    actual = {field: getattr(embeddings, field) for field in expected}
    assert_close(actual, expected, TOLERANCE[name])
    assert embeddings.user.dtype == dtype
    for weights in (embeddings.modality_weight_user, embeddings.modality_weight_item):
        np.testing.assert_allclose(np.asarray(weights).sum(axis=0), 1, rtol=1e-5)


def test_every_parameter_has_a_finite_gradient_and_none_is_idle():
    forward, params = build(CONFIGS["paper"])

    def loss(params):
        embeddings = forward(params, jax.random.key(1))
        return jnp.sum(embeddings.user**2) + jnp.sum(embeddings.item**2)

    gradients = jax.grad(loss)(params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(leaf != 0), path


def test_dropout_changes_the_features_and_not_the_id_embeddings():
    forward, params = build(CONFIGS["paper"])
    first, second = (forward(params, jax.random.key(seed)) for seed in (0, 1))
    assert np.any(first.feature_user["m0"] != second.feature_user["m0"])
    np.testing.assert_array_equal(first.id_user["m0"], second.id_user["m0"])
