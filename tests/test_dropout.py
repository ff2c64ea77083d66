import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.methods.mmssl.fast import dropout
from mmssl_jax.methods.mmssl.fast.dropout import KeepMask, drop


def keep_mask(key, rate, shape):
    return dropout.keep_mask(key, rate, jnp.arange(shape[0]), shape[1])


@pytest.mark.parametrize("rate", [0.2, 0.31, 0.5])
def test_each_place_is_kept_with_its_probability(rate):
    keep = np.asarray(keep_mask(jax.random.key(1), rate, (1001, 301)))
    deviation = np.sqrt(rate * (1 - rate) / keep.size)
    assert abs(keep.mean() - (1 - rate)) < 5 * deviation
    for axis, length in enumerate(keep.shape):
        counts = keep.sum(axis=1 - axis)
        across = keep.shape[1 - axis]
        # Chi-square of the counts of rows, or columns, about its mean within 5 deviations.
        chi = ((counts - across * (1 - rate)) ** 2).sum() / (across * rate * (1 - rate))
        assert abs(chi - length) < 5 * np.sqrt(2 * length)


def test_neighbours_are_independent():
    keep = np.asarray(keep_mask(jax.random.key(3), 0.5, (400, 401)))
    flat = keep.reshape(-1) - 0.5
    for shift in (1, 2, 3, 4, 401):
        correlation = np.mean(flat[shift:] * flat[:-shift]) / 0.25
        assert abs(correlation) < 5 / np.sqrt(flat.size)


def test_masks_depend_on_the_key_and_on_nothing_else():
    first, again, other = (keep_mask(jax.random.key(k), 0.5, (9, 7)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.any(np.asarray(first) != np.asarray(other))


def test_a_row_has_its_own_mask_wherever_it_lies():
    whole = np.asarray(keep_mask(jax.random.key(1), 0.5, (60, 13)))
    rows = jnp.array([41, 3, 59, 0])
    of_these = dropout.keep_mask(jax.random.key(1), 0.5, rows, 13)
    np.testing.assert_array_equal(of_these, whole[np.asarray(rows)])


def test_dropout_keeps_the_mean_and_is_the_identity_when_deterministic():
    x, rows = jnp.full((300, 200), 2.0), jnp.arange(300)
    layer, rngs = KeepMask(0.31), {"dropout": jax.random.key(0)}
    dropped = np.asarray(drop(x, layer.apply({}, rows, 200, False, rngs=rngs), 0.31))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(2 / 0.69)}
    assert dropped.mean() == pytest.approx(2.0, abs=0.03)
    assert layer.apply({}, rows, 200, True) is None
    assert KeepMask(0.0).apply({}, rows, 200, False, rngs=rngs) is None
    np.testing.assert_array_equal(drop(x, None, 0.31), x)
