"""InfoNCE against a loop over the distinct nodes, and over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.losses.info_nce import info_nce
from tests.problems import TOLERANCE, precision

RNG = np.random.default_rng(0)
TABLES = RNG.normal(size=(2, 6, 4))  # two views of six nodes
DISTINCT, REPEATED = np.array([4, 2, 0, 5]), np.array([3, 1, 3, 2, 1, 3, 0, 5])


def by_loops(nodes, temperature):
    """One term for each distinct node, with all distinct nodes in its sum."""
    one, other = TABLES

    def f(a, b):
        cosine = one[a] @ other[b] / np.linalg.norm(one[a]) / np.linalg.norm(other[b])
        return np.exp(cosine / temperature)

    distinct = sorted(set(nodes.tolist()))
    terms = [-np.log(f(n, n) / sum(f(n, c) for c in distinct)) for n in distinct]
    return np.mean(terms)


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("temperature", [0.2, 1.0])
@pytest.mark.parametrize("nodes", [DISTINCT, REPEATED], ids=["distinct", "repeated"])
def test_loss_by_loops(nodes, temperature, name):
    with precision(name) as dtype:
        one, other = (jnp.asarray(table[nodes], dtype) for table in TABLES)
        loss = info_nce(one, other, jnp.asarray(nodes), temperature)
    assert float(loss) == pytest.approx(by_loops(nodes, temperature), rel=TOLERANCE[name])


def test_a_repeated_node_pulls_its_vector_as_once():
    def of(tables, nodes):
        return info_nce(tables[0][nodes], tables[1][nodes], nodes, 0.2)

    tables = jnp.asarray(TABLES)
    often, once = (
        jax.grad(of)(tables, jnp.asarray(nodes)) for nodes in (REPEATED, np.unique(REPEATED))
    )
    np.testing.assert_allclose(often, once, rtol=1e-4, atol=1e-5)
    assert not np.asarray(often[:, 4]).any()  # not in the batch


@pytest.mark.parametrize("devices", [2, 4])
def test_the_mean_over_devices_is_that_of_the_whole_batch(devices):
    nodes = REPEATED.reshape(devices, -1)
    one, other = (jnp.asarray(table)[nodes] for table in TABLES)
    shares = jax.vmap(lambda *x: info_nce(*x, 0.2, "devices"), axis_name="devices")(
        one, other, jnp.asarray(nodes)
    )
    assert float(jnp.mean(shares)) == pytest.approx(by_loops(REPEATED, 0.2), rel=1e-5)


def test_views_that_are_alike_lose_nothing_and_zeros_have_finite_gradients():
    axes = 5 * jnp.eye(6)
    assert float(info_nce(axes, axes, jnp.arange(6), 0.01)) == pytest.approx(0, abs=1e-5)
    zeros = jnp.zeros((3, 4))
    loss, gradient = jax.value_and_grad(info_nce)(zeros, zeros, jnp.arange(3), 0.2)
    assert float(loss) == pytest.approx(np.log(3))
    assert not np.asarray(gradient).any()
