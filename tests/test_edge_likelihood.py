import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.methods.mmssl.draws import draw
from mmssl_jax.methods.mmssl.game.edge_likelihood import edge_likelihood_loss
from mmssl_jax.methods.mmssl.step import train_step
from mmssl_jax.sampling import Batch
from tests.problems import step_config, step_problem


def test_the_loss_is_the_binary_cross_entropy_of_the_drawn_edges():
    rng = np.random.default_rng(0)
    users = {m: rng.normal(size=(5, 3)) for m in "ab"}
    items = {m: rng.normal(size=(6, 3)) for m in "ab"}
    batch = rng.integers(5, size=(3, 4))

    expected = []
    for m in "ab":
        for u, i, j in batch.T:
            here, there = (1 / (1 + np.exp(-users[m][u] @ items[m][n])) for n in (i, j))
            expected.append(-np.log(here) - np.log(1 - there))

    features = (
        {m: jnp.asarray(x, jnp.float32) for m, x in side.items()} for side in (users, items)
    )
    loss = edge_likelihood_loss(*features, Batch(*jnp.asarray(batch, jnp.int32)))
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_step_with_it_trains_the_encoders_and_has_no_critic():
    config = step_config(game__kind="edge_likelihood", game__weight=0.5, model__dropout=0.0)
    without = step_config(game__weight=0.0, model__dropout=0.0)

    def after(config):
        setup, _, inputs, state = step_problem(config)
        draws = draw(setup, jax.random.key(0), inputs)
        return jax.jit(lambda state: train_step(setup, state, draws, inputs))(state)

    (with_edges, metrics), (plain, _) = after(config), after(without)
    assert np.isfinite(metrics["edge_likelihood"])
    assert "critic_loss" not in metrics
    assert with_edges.critic is None
    assert with_edges.critic_opt is None
    kernels = (s.generator["encoder"]["m0"]["kernel"] for s in (with_edges, plain))
    assert np.abs(np.subtract(*map(np.asarray, kernels))).max() > 1e-5
