import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.losses.contrastive import contrastive_loss
from tests.problems import TOLERANCE, precision

RNG = np.random.default_rng(0)
ANCHORS, KEYS = RNG.normal(size=(8, 4)), RNG.normal(size=(8, 4))
UNIQUE, REPEATED = np.arange(8), np.array([3, 1, 3, 2, 1, 3, 0, 5])


def contrastive_by_loops(anchors, keys, users, temperature, mask_repeated=True):
    """InfoNCE with one row and one negative at a time."""

    def f(x, y):
        return np.exp(x @ y / np.linalg.norm(x) / np.linalg.norm(y) / temperature)

    losses = []
    for b, anchor in enumerate(anchors):
        total = f(anchor, keys[b])
        for c in range(len(anchors)):
            if users[c] != users[b] or (not mask_repeated and c != b):
                total += f(anchor, keys[c]) + f(anchor, anchors[c])
        losses.append(-np.log(f(anchor, keys[b]) / total + 1e-8))
    return np.mean(losses)


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("temperature", [0.5, 0.085])
@pytest.mark.parametrize("users", [UNIQUE, REPEATED], ids=["unique users", "repeated users"])
def test_loss_by_loops(users, temperature, name):
    with precision(name) as dtype:
        loss = contrastive_loss(
            jnp.asarray(ANCHORS, dtype), jnp.asarray(KEYS, dtype), jnp.asarray(users), temperature
        )
    expected = contrastive_by_loops(ANCHORS, KEYS, users, temperature)
    assert float(loss) == pytest.approx(expected, rel=TOLERANCE[name])


def test_repeated_users_may_be_their_own_negatives():
    loss = contrastive_loss(
        *(jnp.asarray(x) for x in (ANCHORS, KEYS, REPEATED)), 0.5, mask_repeated=False
    )
    expected = contrastive_by_loops(ANCHORS, KEYS, REPEATED, 0.5, mask_repeated=False)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    masked = contrastive_by_loops(ANCHORS, KEYS, REPEATED, 0.5)
    assert float(loss) != pytest.approx(masked, rel=1e-3)


def test_a_tiny_temperature_does_not_overflow():
    anchors = jnp.asarray(ANCHORS, jnp.float32)
    loss, gradient = jax.value_and_grad(contrastive_loss)(anchors, anchors, jnp.arange(8), 1e-3)
    assert float(loss) == pytest.approx(0, abs=1e-3)
    assert np.all(np.isfinite(gradient))


def test_zero_anchors_give_a_constant_without_gradient():
    keys, zeros = jnp.asarray(KEYS, jnp.float32), jnp.zeros((8, 4))
    loss, gradients = jax.value_and_grad(contrastive_loss, argnums=(0, 1))(
        zeros, keys, jnp.arange(8), 0.5
    )
    assert float(loss) == pytest.approx(np.log(2 * 8 - 1), rel=1e-6)
    assert all(np.all(np.asarray(gradient) == 0) for gradient in gradients)


def test_one_zero_anchor_leaves_the_others_gradients_finite():
    anchors = jnp.asarray(ANCHORS, jnp.float32).at[2].set(0.0)
    gradient = jax.grad(contrastive_loss)(
        anchors, jnp.asarray(KEYS, jnp.float32), jnp.arange(8), 0.5
    )
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient[2] == 0)
    assert np.all(np.any(np.delete(gradient, 2, axis=0) != 0, axis=1))


@pytest.mark.parametrize("users", [UNIQUE, REPEATED], ids=["unique users", "repeated users"])
def test_devices_share_their_negatives(users):
    def loss(anchors, keys, users):
        return contrastive_loss(anchors, keys, users, 0.5, "shares")

    shares = [x.reshape(4, 2, *x.shape[1:]) for x in (ANCHORS, KEYS, users)]
    arrays = [jnp.asarray(x, jnp.int32 if x.dtype.kind == "i" else jnp.float32) for x in shares]
    losses = jax.vmap(loss, axis_name="shares")(*arrays)
    expected = contrastive_by_loops(ANCHORS, KEYS, users, 0.5)
    assert float(jnp.mean(losses)) == pytest.approx(expected, rel=1e-5)
