"""Contrast over all nodes in blocks, against loops and over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.losses import contrastive
from mmssl_jax.losses.contrastive import contrast_of_all, contrastive_loss
from mmssl_jax.parallel import AXIS, pmean
from tests.dense import cosine
from tests.problems import TOLERANCE, assert_close, precision

N, TEMPERATURE = 11, 0.4
RNG = np.random.default_rng(0)
ANCHORS, KEYS = RNG.normal(size=(N, 4)), RNG.normal(size=(N, 4))
# All rows at once, two blocks, and blocks of one row.
AT_ONCE = [2**23, 6 * N, 1]


@pytest.mark.parametrize("at_once", AT_ONCE)
@pytest.mark.parametrize("name", TOLERANCE)
def test_loss_by_loops(at_once, name, monkeypatch):
    monkeypatch.setattr(contrastive, "SCORES_AT_ONCE", at_once)
    expected = []
    for n, z in enumerate(ANCHORS):
        views = [np.exp(cosine(z, q) / TEMPERATURE) for q in KEYS]
        others = [np.exp(cosine(z, x) / TEMPERATURE) for x in np.delete(ANCHORS, n, axis=0)]
        expected.append(-np.log(views[n] / (sum(views) + sum(others))))
    with precision(name) as dtype:
        anchors, keys = (jnp.asarray(x, dtype) for x in (ANCHORS, KEYS))
        found = contrast_of_all(anchors, keys, TEMPERATURE, None)
        assert float(found) == pytest.approx(np.mean(expected), rel=TOLERANCE[name])


@pytest.mark.parametrize("at_once", AT_ONCE)
@pytest.mark.parametrize("n_devices", [1, 3, 4])
def test_devices_share_rows_and_gradients(at_once, n_devices, monkeypatch):
    """Those of the loss over a batch that holds each node once; its 1e-8 aside."""
    monkeypatch.setattr(contrastive, "SCORES_AT_ONCE", at_once)
    x = jnp.asarray(ANCHORS, jnp.float32), jnp.asarray(KEYS, jnp.float32)
    expected = jax.value_and_grad(lambda x: contrastive_loss(*x, jnp.arange(N), TEMPERATURE))(x)

    def of_device(_, x):
        own = jax.value_and_grad(lambda x: contrast_of_all(*x, TEMPERATURE, AXIS))(x)
        return pmean(own, AXIS)

    run = jax.pmap(of_device, axis_name=AXIS, in_axes=(0, None), out_axes=None)
    assert_close(run(jnp.arange(n_devices), x), expected, 1e-5)


def test_rows_of_zeros_have_no_gradient():
    zeros, keys = jnp.zeros((N, 4)), jnp.asarray(KEYS, jnp.float32)
    loss, gradient = jax.value_and_grad(contrast_of_all)(zeros, keys, TEMPERATURE, None)
    assert float(loss) == pytest.approx(np.log(2 * N - 1), rel=1e-5)
    np.testing.assert_array_equal(gradient, zeros)
