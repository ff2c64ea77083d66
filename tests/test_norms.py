import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.norms import inverse_norm, unit_rows


def test_inverse_norm_of_positive_and_zero_squares():
    squares = jnp.asarray([4.0, 1e-20, 0.0, -1e-9])
    np.testing.assert_allclose(inverse_norm(squares), [0.5, 1e10, 0, 0], rtol=1e-6)


def test_unit_rows_have_norm_one_and_keep_their_direction():
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    x[1, 2] = 0

    unit = np.asarray(unit_rows(jnp.asarray(x)))

    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    np.testing.assert_allclose(unit, x / np.where(norms, norms, 1), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(unit[1, 2], np.zeros(5))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-13])
def test_gradients_are_finite_at_and_near_zero(size):
    x = jnp.full((2, 3), size)
    of_rows = jax.grad(lambda x: jnp.sum(unit_rows(x) * jnp.arange(3.0)[None, :]))(x)
    of_squares = jax.grad(lambda s: jnp.sum(inverse_norm(s)))(jnp.full(2, size**2))

    np.testing.assert_array_equal(of_rows, np.zeros((2, 3)))
    np.testing.assert_array_equal(of_squares, np.zeros(2))


def test_gradient_of_unit_rows_is_the_projection_off_the_row():
    x = np.random.default_rng(1).normal(size=4)
    jacobian = jax.jacobian(unit_rows)(jnp.asarray(x, jnp.float32))
    norm = np.linalg.norm(x)
    expected = (np.eye(4) - np.outer(x, x) / norm**2) / norm
    np.testing.assert_allclose(jacobian, expected, rtol=1e-4, atol=1e-6)
