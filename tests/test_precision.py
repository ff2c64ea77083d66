import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.methods.mmssl.draws import draw
from mmssl_jax.methods.mmssl.step import train_step
from mmssl_jax.precision import dot_general, matmul, rounded
from tests.problems import assert_close, step_config, step_problem

BITS = {"bfloat16": 7, "tensorfloat32": 10}


@pytest.mark.parametrize(("precision", "bits"), BITS.items())
def test_rounding_keeps_the_bits_of_its_name(precision, bits):
    kept, lost = 1 + 2.0**-bits, 1 + 2.0 ** -(bits + 2)
    np.testing.assert_array_equal(rounded(jnp.asarray([kept, lost]), precision), [kept, 1.0])
    assert float(rounded(jnp.float32(3e38), precision)) > 2.9e38


def test_bfloat16_rounds_as_the_type_does():
    x = jax.random.normal(jax.random.key(0), (1000,))
    np.testing.assert_array_equal(
        rounded(x, "bfloat16"), x.astype(jnp.bfloat16).astype(jnp.float32)
    )


@pytest.mark.parametrize("precision", ["float32", *BITS])
def test_products_have_rounded_operands_and_float32_sums(precision):
    a, b = (jax.random.normal(jax.random.key(i), (40, 40)) for i in range(2))
    exact = [np.asarray(rounded(x, precision), np.float64) for x in (a, b)]
    expected = exact[0] @ exact[1]
    np.testing.assert_allclose(matmul(a, b, precision), expected, rtol=1e-5, atol=1e-5)
    layer = dot_general(precision)(a, b, (((1,), (0,)), ((), ())))
    np.testing.assert_allclose(layer, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "low", "high"),
    [("bfloat16", 1e-5, 0.1), pytest.param("tensorfloat32", 1e-6, 0.02, marks=pytest.mark.slow)],
)
def test_a_step_of_reduced_precision_is_near_the_full_one(precision, low, high):
    off = {"model__dropout": 0.0, "critic__dropout": (0.0, 0.0), "game__weight": 0.5}
    full, reduced = step_config(**off), step_config(**off, precision=precision)
    problem = step_problem(full)
    draws = draw(problem.setup, jax.random.key(0), problem.inputs)

    def metrics(setup):
        step = jax.jit(lambda state: train_step(setup, state, draws, problem.inputs)[1])
        return {name: float(value) for name, value in step(problem.state).items()}

    exact, near = metrics(problem.setup), metrics(problem.with_config(reduced).setup)
    for name in ("critic_loss", "gradient_penalty", "adversarial"):
        assert low < abs(near[name] - exact[name]) / abs(exact[name]) < high, name
    assert_close(near["bpr"], exact["bpr"], 1e-6)
