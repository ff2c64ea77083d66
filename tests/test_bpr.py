import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.losses.bpr import bpr_loss, embedding_l2, feature_l2
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


def test_feature_l2_is_half_the_squares_of_all_nodes_per_item():
    users = {"a": RAW[0], "b": RAW[1]}
    items = {"a": RAW[2][:3], "b": RAW[1][:3]}
    penalty = feature_l2(
        {m: jnp.asarray(x, jnp.float32) for m, x in users.items()},
        {m: jnp.asarray(x, jnp.float32) for m, x in items.items()},
    )
    squares = sum((x**2).sum() for x in (*users.values(), *items.values()))
    assert float(penalty) == pytest.approx(squares / 2 / 3, rel=1e-5)
