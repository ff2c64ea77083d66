import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.losses.bpr import bpr_loss, embedding_l2, frobenius_norm
from tests.problems import TOLERANCE, precision

RAW = [np.random.default_rng(m).normal(size=(6, 4)) for m in range(3)]


@pytest.mark.parametrize("name", TOLERANCE)
def test_bpr_is_the_mean_of_minus_log_sigmoid(name):
    with precision(name) as dtype:
        loss = bpr_loss(*(jnp.asarray(x, dtype) for x in RAW))

    users, positives, negatives = RAW
    terms = [
        -np.log(1 / (1 + np.exp(-(u @ p - u @ n))))
        for u, p, n in zip(users, positives, negatives, strict=True)
    ]
    assert float(loss) == pytest.approx(np.mean(terms), rel=TOLERANCE[name])


@pytest.mark.parametrize(("margin", "expected"), [(-200.0, 200.0), (200.0, 0.0)])
def test_bpr_is_finite_for_any_margin(margin, expected):
    one, zero = jnp.ones((1, 1)), jnp.zeros((1, 1))
    assert float(bpr_loss(one, margin * one, zero)) == pytest.approx(expected)


@pytest.mark.parametrize("name", TOLERANCE)
def test_embedding_l2_is_half_the_squares_per_triple(name):
    with precision(name) as dtype:
        penalty = embedding_l2(*(jnp.asarray(x, dtype) for x in RAW))
    expected = sum((x**2).sum() for x in RAW) / 2 / 6
    assert float(penalty) == pytest.approx(expected, rel=TOLERANCE[name])


@pytest.mark.parametrize("name", TOLERANCE)
def test_frobenius_norm_is_the_root_of_the_squares_of_all_devices(name):
    with precision(name) as dtype:
        rows = jnp.asarray(RAW[0], dtype)
        norm = frobenius_norm(rows)
        of_shares = jax.vmap(lambda share: frobenius_norm(share, "shares"), axis_name="shares")(
            rows.reshape(3, 2, -1)
        )
    expected = np.linalg.norm(RAW[0])
    assert float(norm) == pytest.approx(expected, rel=TOLERANCE[name])
    np.testing.assert_allclose(of_shares, np.full(3, expected), rtol=TOLERANCE[name])


def test_frobenius_norm_has_no_gradient_at_zero():
    np.testing.assert_array_equal(jax.grad(frobenius_norm)(jnp.zeros((2, 3))), np.zeros((2, 3)))
    rows = jnp.asarray(RAW[1], jnp.float32)
    expected = RAW[1] / np.linalg.norm(RAW[1])
    np.testing.assert_allclose(jax.grad(frobenius_norm)(rows), expected, rtol=1e-5)
