"""Devices: the collectives, both transforms, and training on four devices as on one."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.parallel import (
    AXIS,
    all_gather,
    axis_index,
    local_devices,
    pmean,
    psum,
    replicate,
    share_of,
    share_out,
    spread,
)
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_training
from tests.problems import STEPS, tiny_config, tiny_dataset

TRANSFORMS = ("pmap", "shard_map")


def tree():
    return {"a": jnp.arange(8.0).reshape(4, 2), "b": (jnp.arange(4),)}


@pytest.mark.parametrize("collective", [psum, pmean, all_gather, share_of])
def test_collectives_without_an_axis_are_the_identity(collective):
    given = tree()
    found = collective(given, None)
    assert jax.tree.structure(found) == jax.tree.structure(given)
    assert all(map(operator.is_, jax.tree.leaves(found), jax.tree.leaves(given)))


def test_the_device_index_without_an_axis_is_0():
    assert axis_index(None) == 0
    assert axis_index(None).dtype == jnp.int32


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_collectives(transform, count):
    devices = local_devices(count)

    def on_device(share, whole):
        mine = share_of(whole, AXIS)
        return {
            "total": psum(share, AXIS),
            "mean": pmean(share, AXIS),
            "gathered": all_gather(mine, AXIS),
            "mine": all_gather(mine + 100 * axis_index(AXIS), AXIS),
        }

    shares = np.arange(3.0 * count).reshape(count, 3)
    whole = np.arange(8)
    found = spread(on_device, devices, transform, (True, False))(
        share_out(shares, devices), replicate(whole, devices)
    )
    np.testing.assert_allclose(found["total"], shares.sum(axis=0))
    np.testing.assert_allclose(found["mean"], shares.mean(axis=0))
    np.testing.assert_array_equal(found["gathered"], whole)
    np.testing.assert_array_equal(
        found["mine"], whole + 100 * np.repeat(np.arange(count), 8 // count)
    )


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_mean_of_shares_of_a_gradient_is_the_gradient_of_the_mean(transform):
    """A gradient through a gather takes in what the other devices' losses make of this share."""
    devices = local_devices(4)
    weight, rows = jnp.float32(0.7), jnp.linspace(-1, 1, 8)

    def loss(weight, mine, axis):
        mine = jnp.tanh(weight * mine)
        others = all_gather(mine, axis)
        return jnp.mean(jnp.exp(mine[:, None] * others[None, :]))

    def on_device(weight, rows):
        return pmean(jax.grad(loss)(weight, share_of(rows, AXIS), AXIS), AXIS)

    found = spread(on_device, devices, transform, (False, False))(
        *replicate((weight, rows), devices)
    )
    np.testing.assert_allclose(found, jax.grad(loss)(weight, rows, None), rtol=1e-6)


def test_local_devices():
    assert len(local_devices()) == len(local_devices(0)) == 4
    assert local_devices(3) == jax.local_devices()[:3]
    with pytest.raises(ValueError, match="this machine has 4 local cpu device"):
        local_devices(5)


def test_replicate_and_share_out_place_arrays():
    devices = local_devices(4)
    copies, shares = replicate(jnp.arange(8), devices), share_out(jnp.arange(8), devices)
    assert [shard.data.shape for shard in copies.addressable_shards] == [(8,)] * 4
    assert [shard.data.tolist() for shard in shares.addressable_shards] == [
        [0, 1], [2, 3], [4, 5], [6, 7],
    ]  # fmt: skip


# Between the released critic's batch normalisations all is linear, so that the next one takes these
# biases out again: their gradients are nothing but rounding, which Adam scales to a full step.
CANCELLED = ("[1]['first_bias']", "[1]['norm_0']['bias']", "[1]['dense_1']['bias']")
DROPOUT = {"model.dropout": 0.2, "critic.dropout": (0.31, 0.5)}


@functools.cache
def train(preset: str, devices: int, transform: str):
    """The losses of every step, and the state after."""
    changes = {"parallel.devices": devices, "parallel.transform": transform}
    changes |= {**DROPOUT, "parallel.tables": "replicated"}
    problem = load_problem(tiny_config(preset, changes), tiny_dataset())
    run, state, losses = compile_training(problem).epoch, new_state(problem), []
    for _ in range(STEPS):
        state, metrics = run(state, 1)
        losses.append(jax.device_get(metrics))
    return losses, state


@pytest.mark.parametrize(
    ("preset", "transform"),
    [
        ("paper", "pmap"),
        *(pytest.param(p, "shard_map", marks=pytest.mark.slow) for p in ("paper", "released")),
        pytest.param("released", "pmap", marks=pytest.mark.slow),
    ],
)
def test_four_devices_train_as_one(preset, transform):
    expected, expected_state = train(preset, 1, "pmap")
    found, found_state = train(preset, 4, transform)
    for step, (one, four) in enumerate(zip(expected, found, strict=True)):
        assert one.keys() == four.keys()
        for name in one:
            np.testing.assert_allclose(four[name], one[name], 1e-5, 1e-7, err_msg=f"{name} {step}")
    one = jax.tree.leaves_with_path((expected_state.method.generator, expected_state.method.critic))
    four = jax.tree.leaves((found_state.method.generator, found_state.method.critic))
    for (path, leaf), other in zip(one, four, strict=True):
        name = jax.tree_util.keystr(path)
        if preset == "paper" or name not in CANCELLED:
            np.testing.assert_allclose(other, leaf, 1e-4, 1e-5, err_msg=name)


@pytest.mark.parametrize("preset", ["paper", pytest.param("released", marks=pytest.mark.slow)])
def test_learned_graphs_are_those_of_one_device(preset):
    _, expected = train(preset, 1, "pmap")
    _, found = train(preset, 4, "pmap")
    assert int(found.step) == int(expected.step) == STEPS
    for one, four in zip(
        jax.tree.leaves((expected.method.learned, expected.method.pending)),
        jax.tree.leaves((found.method.learned, found.method.pending)),
        strict=True,
    ):
        if jnp.issubdtype(one.dtype, jnp.floating):
            np.testing.assert_allclose(four, one, 1e-5)
        else:
            np.testing.assert_array_equal(four, one)
