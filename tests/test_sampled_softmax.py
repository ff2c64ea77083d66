"""The sampled softmax against a loop over rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.losses.sampled_softmax import sampled_softmax


@pytest.mark.parametrize("similarity", ["cosine", "inner"])
@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_loss_is_that_of_a_loop(similarity, temperature):
    rng = np.random.default_rng(0)
    users, positives, negatives = (rng.normal(size=(n, 4)) for n in (5, 5, 7))

    def score(a, b):
        norm = np.linalg.norm(a) * np.linalg.norm(b) if similarity == "cosine" else 1.0
        return np.exp(a @ b / norm / temperature)

    losses = []
    for user, positive in zip(users, positives, strict=True):
        own = score(user, positive)
        losses.append(-np.log(own / (own + sum(score(user, j) for j in negatives))))
    found = sampled_softmax(
        *map(jnp.asarray, (users, positives, negatives)), temperature, similarity
    )
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-5)


def test_zero_rows_have_finite_gradients():
    zeros = jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.zeros((4, 3))
    gradients = jax.grad(lambda x: sampled_softmax(*x, 0.2))(zeros)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in gradients)
