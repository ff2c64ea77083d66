import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax import optimizers
from mmssl_jax.graph import propagate
from mmssl_jax.methods.mmssl.draws import draw
from mmssl_jax.methods.mmssl.fast import edge_chunks, kernel_products, row_blocks
from mmssl_jax.methods.mmssl.fast.row_blocks import map_row_blocks
from mmssl_jax.methods.mmssl.step import train_step
from tests.problems import assert_close, precision, step_config, step_problem


def mixed(params, rows):
    x, (y,) = rows
    return {"product": jnp.tanh(x @ params["w"]) * y, "sum": jnp.sum(x, axis=1)}


@pytest.mark.parametrize("n_rows", [8, 9, 12])
def test_values_and_gradients_are_those_of_all_rows_at_once(n_rows, monkeypatch):
    monkeypatch.setattr(row_blocks, "ROWS_AT_ONCE", 4)
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params, rows = {"w": draw(3, 2)}, (draw(n_rows, 3), [draw(n_rows, 2)])
    pull = {"product": draw(n_rows, 2), "sum": draw(n_rows)}

    values, transpose = jax.vjp(lambda p, r: map_row_blocks(mixed, p, r), params, rows)
    expected, expected_transpose = jax.vjp(mixed, params, rows)

    assert_close(values, expected, 1e-6)
    assert_close(transpose(pull), expected_transpose(pull), 1e-6)


def test_nothing_in_between_is_kept_for_the_backward_pass(monkeypatch):
    rows = jnp.ones((64, 8))

    def wide(params, rows):
        return jnp.sum(jnp.tanh(rows @ params), axis=1)

    def kept(rows_at_once):
        monkeypatch.setattr(row_blocks, "ROWS_AT_ONCE", rows_at_once)
        _, transpose = jax.vjp(lambda x: map_row_blocks(wide, jnp.ones((8, 100)), x), rows)
        return sum(leaf.size for leaf in jax.tree.leaves(transpose))

    assert kept(16) <= 64 * 8 + 8 * 100
    assert kept(64) > 64 * 100


def test_a_step_in_blocks_is_the_step_at_once(monkeypatch):
    # Masked, so that generated rows have edges as well.
    config = step_config(structure__mask_observed=True)
    with precision("float64") as dtype:
        setup, _, inputs, state = step_problem(config, dtype=dtype)

        def two_steps():
            draws = draw(setup, jax.random.key(0), inputs)

            @jax.jit
            def step(state):
                return train_step(setup, state, draws, inputs)

            after, metrics = step(step(state)[0])
            return (after.generator, after.critic, after.critic_opt, after.generator_opt), metrics

        at_once = two_steps()
        for module, name, size in (
            (row_blocks, "ROWS_AT_ONCE", 5),
            (optimizers, "ROWS_AT_ONCE", 4),
            (kernel_products, "ITEMS_AT_ONCE", 5),
        ):
            monkeypatch.setattr(module, name, size)
        for module, size in ((edge_chunks, 5), (propagate, 9)):
            monkeypatch.setattr(module, "vectors_at_once", lambda width, size=size: size)
        in_blocks = two_steps()

    assert_close(in_blocks, at_once, 1e-9, floor=1e-3)
