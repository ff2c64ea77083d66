import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmssl_jax import optimizers
from mmssl_jax.config import OptimConfig
from mmssl_jax.methods.mmssl.state import critic_optimizer
from mmssl_jax.optimizers import adam, adamw
from tests.problems import step_config


def take_steps(optimizer, parameter, gradients):
    params = {"w": jnp.asarray(parameter, jnp.float32)}
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update({"w": jnp.asarray(gradient, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params["w"])


def adam_by_loops(parameter, gradients, rates, beta_1, beta_2, decay):
    """Adam with bias correction and decoupled weight decay."""
    first, second = np.zeros_like(parameter), np.zeros_like(parameter)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        first = beta_1 * first + (1 - beta_1) * gradient
        second = beta_2 * second + (1 - beta_2) * gradient**2
        step = first / (1 - beta_1**t) / (np.sqrt(second / (1 - beta_2**t)) + 1e-8)
        parameter = parameter - rate * (step + decay * parameter)
    return parameter


@pytest.fixture(params=[3, 2**14], ids=["in blocks of three rows", "in one block"])
def draws(request, monkeypatch):
    monkeypatch.setattr(optimizers, "ROWS_AT_ONCE", request.param)
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 2)), rng.normal(size=(6, 7, 2))


def test_the_rate_of_adamw_falls_by_epochs(draws):
    parameter, gradients = draws
    config = OptimConfig(lr=0.1, lr_decay=0.5, weight_decay=0.2)

    moved = take_steps(adamw(config, 2), parameter, gradients)

    rates = [0.1 * 0.5 ** (epoch / 50) for epoch in (0, 0, 1, 1, 2, 2)]
    expected = adam_by_loops(parameter, gradients, rates, 0.9, 0.999, 0.2)
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-6)


def test_critic_is_adam_with_its_own_betas(draws):
    parameter, gradients = draws
    config = step_config(optim__critic_lr=0.1, optim__critic_betas=(0.5, 0.9))

    moved = take_steps(critic_optimizer(config), parameter, gradients)

    expected = adam_by_loops(parameter, gradients, [0.1] * 6, 0.5, 0.9, 0.0)
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-6)


def test_adam_has_the_usual_betas_unless_told_otherwise(draws):
    parameter, gradients = draws

    moved = take_steps(adam(0.1), parameter, gradients)

    expected = adam_by_loops(parameter, gradients, [0.1] * 6, 0.9, 0.999, 0.0)
    # 1 - 0.999^t has few digits in float32.
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-5)
