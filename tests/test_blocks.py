import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.blocks import fold_blocks, vectors_at_once, zeros_of_its_own


@pytest.mark.parametrize(("length", "size"), [(7, 3), (6, 3), (3, 3), (2, 3), (4, 3)])
def test_every_row_is_new_in_one_block(length, size):
    times = fold_blocks(
        length,
        size,
        jnp.zeros(length, int),
        lambda times, block: block.put(times, block.cut(times) + block.is_new),
    )
    np.testing.assert_array_equal(times, np.ones(length))


def test_rows_that_are_not_new_come_from_elsewhere():
    def visit(x, block):
        return block.put(x, block.only_new(block.cut(x) + 1, block.cut(x)))

    np.testing.assert_array_equal(fold_blocks(5, 3, jnp.zeros((5, 2)), visit), np.ones((5, 2)))


def test_blocks_are_equally_long():
    sizes = []

    def visit(carry, block):
        sizes.append(len(block.is_new))
        return carry

    fold_blocks(9, 8, jnp.int32(0), visit)
    assert set(sizes) == {5}


@pytest.mark.parametrize("first", [7.0, -7.0, jnp.inf, jnp.nan])
def test_zeros_of_their_own(first):
    zeros = zeros_of_its_own((2, 3), jnp.int32, jnp.full((4, 1), first))
    assert zeros.dtype == jnp.int32
    np.testing.assert_array_equal(zeros, np.zeros((2, 3)))
    np.testing.assert_array_equal(zeros_of_its_own((2,), float, jnp.zeros((0, 1))), np.zeros(2))


def test_vectors_at_once_are_fewer_the_wider_they_are_and_fewer_on_a_cpu(monkeypatch):
    sizes = {}
    for platform in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        sizes[platform] = [vectors_at_once(width) for width in (1, 64, 1677, 2**30)]
    narrow, wide, ragged, widest = sizes["cpu"]
    assert (narrow, ragged, widest) == (64 * wide, narrow // 1677, 1)
    assert all(cpu <= gpu for cpu, gpu in zip(sizes["cpu"], sizes["gpu"], strict=True))
    assert sizes["cpu"][0] < sizes["gpu"][0]
