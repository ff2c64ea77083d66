import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.methods.mmssl.fast.hidden_layer import Activation, activate
from tests.problems import TOLERANCE, assert_close, precision

BATCH, UNITS = 12, 5


def plainly(settings, x, scale, shift, keep):
    """The same lines, left to automatic differentiation; the batch is whole."""
    h = jnp.where(x >= 0, x, settings.slope * x)
    axis = 0 if settings.norm == "batch" else 1
    centred = h - jnp.mean(h, axis, keepdims=True)
    variance = jnp.mean(centred**2, axis, keepdims=True)
    y = centred / jnp.sqrt(variance + 1e-5) * scale[None, :] + shift[None, :]
    return y if keep is None else jnp.where(keep, y / (1 - settings.rate), 0)


def arrays(dtype, rate=0.0):
    rng = np.random.default_rng(0)
    x, scale, shift = (rng.normal(size=s) for s in ((BATCH, UNITS), UNITS, UNITS))
    x[3] = 0.0  # at the kink
    keep = jnp.asarray(rng.random((BATCH, UNITS)) >= rate) if rate else None
    mixing, pull = rng.normal(size=(UNITS, UNITS)), rng.normal(size=(BATCH, UNITS))
    x, scale, shift, mixing, pull = (
        jnp.asarray(a, dtype) for a in (x, 1 + 0.3 * scale, shift, mixing, pull)
    )
    return x, scale, shift, keep, mixing, pull


def penalty(function, x, scale, shift, keep, mixing):
    """Of the norms of the gradients of a score behind the layer; the score is not linear in it."""

    def score(x):
        return jnp.sum(jnp.tanh(function(x, scale, shift, keep) @ mixing))

    return jnp.mean((jnp.sum(jax.grad(score)(x) ** 2, axis=1) - 1) ** 2)


SETTINGS = [
    Activation(slope, norm, None, rate)
    for norm in ("batch", "layer")
    for slope, rate in ((1.0, 0.31), (0.2, 0.5), (0.0, 0.0))
]


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_values_and_gradients_are_those_of_the_plain_lines(settings, name):
    with precision(name) as dtype:
        x, scale, shift, keep, _, pull = arrays(dtype, settings.rate)

        def both(function):
            y, transpose = jax.vjp(lambda *a: function(settings, *a, keep), x, scale, shift)
            return y, transpose(pull)

        assert_close(both(activate), both(plainly), TOLERANCE[name])


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_gradients_of_a_gradient_penalty_are_those_of_the_plain_lines(settings, name):
    with precision(name) as dtype:
        x, scale, shift, keep, mixing, _ = arrays(dtype, settings.rate)

        def gradients(function):
            def of(x, scale, shift, mixing):
                bound = lambda *a: function(settings, *a)  # noqa: E731
                return penalty(bound, x, scale, shift, keep, mixing)

            return jax.value_and_grad(of, argnums=(0, 1, 2, 3))(x, scale, shift, mixing)

        assert_close(gradients(activate), gradients(plainly), TOLERANCE[name])


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_gradients_of_a_penalty_over_several_devices(norm):
    with precision("float64") as dtype:
        x, scale, shift, keep, mixing, _ = arrays(dtype, 0.3)
        settings = Activation(0.2, norm, "shares", 0.3)

        def on_one_device(x, keep, scale):
            def of(x, scale):
                bound = lambda *a: activate(settings, *a)  # noqa: E731
                return penalty(bound, x, scale, shift, keep, mixing)

            of_x, of_scale = jax.grad(of, argnums=(0, 1))(x, scale)
            return of_x, jax.lax.pmean(of_scale, "shares")

        def whole(x, scale):
            alone = settings._replace(axis=None)
            bound = lambda *a: plainly(alone, *a)  # noqa: E731
            return penalty(bound, x, scale, shift, keep, mixing)

        shares = x.reshape(3, -1, UNITS), keep.reshape(3, -1, UNITS)
        of_x, of_scale = jax.vmap(on_one_device, (0, 0, None), axis_name="shares")(*shares, scale)
        # A device's loss is the mean of its rows, the whole batch's is the mean of these.
        found = of_x.reshape(BATCH, UNITS) / 3, of_scale[0]
        expected = jax.grad(whole, argnums=(0, 1))(x, scale)

    assert_close(found, expected, 1e-10)
