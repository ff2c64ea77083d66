"""The sampled softmax against a loop over rows."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.losses.sampled_softmax import sampled_softmax


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_loss_is_that_of_a_loop(temperature):
    rng = np.random.default_rng(0)
    users, positives, negatives = (rng.normal(size=(n, 4)) for n in (5, 5, 7))
    losses = []
    for user, positive in zip(users, positives, strict=True):
        own, *others = (np.exp(user @ item / temperature) for item in (positive, *negatives))
        losses.append(-np.log(own / (own + sum(others))))
    found = sampled_softmax(*map(jnp.asarray, (users, positives, negatives)), temperature)
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-5)


def test_large_scores_do_not_overflow():
    users, items = jnp.array([[1e3, 0.0]]), jnp.array([[1e3, 0.0], [-1e3, 0.0]])
    assert float(sampled_softmax(users, items[:1], items[1:], 0.1)) == 0.0
    assert float(sampled_softmax(users, items[1:], items[:1], 0.1)) == pytest.approx(2e7)
