import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.methods.mmssl.config import CriticConfig
from mmssl_jax.methods.mmssl.fast import dropout
from mmssl_jax.methods.mmssl.game.critic import Critic, hidden_widths
from tests.problems import TOLERANCE, assert_close, precision

N_ITEMS, BATCH = 20, 6


def build(config, dtype=jnp.float32):
    """A critic, parameters away from their special initial values, and projections."""
    critic = Critic(N_ITEMS, config)
    width = hidden_widths(config, N_ITEMS)[0]
    params = critic.init(jax.random.key(0), jnp.zeros((2, width)), True)["params"]
    rng = np.random.default_rng(0)
    shift = jax.tree.map(lambda leaf: 0.2 * rng.normal(size=leaf.shape), params)
    params = jax.tree.map(lambda leaf, more: jnp.asarray(leaf + more, dtype), params, shift)
    return critic, params, jnp.asarray(rng.normal(size=(BATCH, width)), dtype)


def critic_by_hand(config, params, projection, kept=None):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
    hidden = np.asarray(projection, float) + params["first_bias"]
    axis = 0 if config.norm == "batch" else 1
    for index in range(len(config.hidden)):
        if index:
            dense = params[f"dense_{index}"]
            hidden = hidden @ dense["kernel"] + dense["bias"]
        hidden = np.where(hidden > 0, hidden, config.slope * hidden)
        mean, var = hidden.mean(axis, keepdims=True), hidden.var(axis, keepdims=True)
        norm = params[f"norm_{index}"]
        hidden = (hidden - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]
        if kept:
            hidden = np.where(kept[index], hidden / (1 - config.dropout[index]), 0)
    output = (hidden @ params["score"]["kernel"] + params["score"]["bias"])[:, 0]
    bound = config.score_bound
    return bound / (1 + np.exp(-output)) if bound else output


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [((512, 256), (512, 256)), ((0.25, 0.125), (5, 2)), ((0.01,), (1,)), ((1.0, 7.0), (1, 7))],
)
def test_hidden_widths(hidden, expected):
    assert hidden_widths(CriticConfig(hidden=hidden), N_ITEMS) == expected


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize(
    "config",
    [
        CriticConfig(hidden=(9, 4), dropout=(0.3, 0.3)),
        CriticConfig(hidden=(0.25, 0.125), norm="batch", slope=1.0, score_bound=100.0),
        CriticConfig(hidden=(8, 6, 4), dropout=(0.0, 0.0, 0.0), norm="batch"),
    ],
    ids=["paper", "released", "three layers"],
)
def test_scores_by_hand(config, name):
    with precision(name) as dtype:
        critic, params, projection = build(config, dtype)
        scores = critic.apply({"params": params}, projection, True)
    assert scores.dtype == dtype
    assert_close(scores, critic_by_hand(config, params, projection), TOLERANCE[name])


def test_a_row_is_scored_by_itself_with_layer_norm_only():
    differences = {}
    for norm in ("layer", "batch"):
        critic, params, projection = build(CriticConfig(hidden=(9, 4), norm=norm))
        scores = critic.apply({"params": params}, projection, True)
        others = critic.apply({"params": params}, projection.at[1:].mul(3.0), True)
        differences[norm] = abs(float(scores[0] - others[0]))
    assert differences["layer"] < 1e-6 < 1e-3 < differences["batch"]


def test_batch_norm_uses_the_statistics_of_all_devices():
    config = CriticConfig(hidden=(9, 4), norm="batch")
    whole, params, projection = build(config)
    sharded = Critic(N_ITEMS, config, "shares")

    scores = jax.vmap(
        lambda share: sharded.apply({"params": params}, share, True), axis_name="shares"
    )(projection.reshape(3, 2, -1))

    assert_close(scores.reshape(-1), whole.apply({"params": params}, projection, True), 1e-5)


def test_dropout_is_drawn_from_the_key_in_training_only():
    critic, params, projection = build(CriticConfig(hidden=(9, 4)))

    def scores(deterministic, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return np.asarray(critic.apply({"params": params}, projection, deterministic, rngs=rngs))

    assert np.array_equal(scores(True, 0), scores(True, 1))
    assert np.array_equal(scores(False, 0), scores(False, 0))
    assert not np.array_equal(scores(False, 0), scores(False, 1))


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_every_layer_has_a_mask_of_its_own_rate(norm, monkeypatch):
    config = CriticConfig(hidden=(40, 30), norm=norm, dropout=(0.2, 0.6))
    critic, params, projection = build(config)
    kept = []

    def recorded(key, rate, rows, width, draw=dropout.keep_mask):
        kept.append((rate, np.asarray(draw(key, rate, rows, width))))
        return jnp.asarray(kept[-1][1])

    monkeypatch.setattr(dropout, "keep_mask", recorded)
    rngs = {"dropout": jax.random.key(0)}
    scores = critic.apply({"params": params}, projection, False, rngs=rngs)

    assert [rate for rate, _ in kept] == [0.2, 0.6]
    assert [mask.mean() for _, mask in kept] == pytest.approx([0.8, 0.4], abs=0.15)
    masks = [mask for _, mask in kept]
    assert_close(scores, critic_by_hand(config, params, projection, masks), 1e-5)


def test_kernels_start_within_one_over_the_root_of_the_inputs():
    critic = Critic(400, CriticConfig(hidden=(64, 32)))
    params = critic.init(jax.random.key(0), jnp.zeros((2, 64)), True)["params"]
    kernels = {400: params["first_kernel"], 64: params["dense_1"]["kernel"]}
    for fan_in, kernel in kernels.items():
        assert 0.9 < float(jnp.abs(kernel).max()) * fan_in**0.5 <= 1
    assert all(np.all(params[name] == 0) for name in ("first_bias",))
