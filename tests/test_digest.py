"""The digest of arrays: its formula, on devices and on the host, and what it notices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.digest import AT_ONCE, array_names, digest_texts, digest_words, host_digest_words
from mmssl_jax.parallel import local_devices, share_out

rng = np.random.default_rng(0)
ARRAYS = {
    "float32": rng.normal(size=(3, 5)).astype(np.float32),
    "int32": rng.integers(-9, 9, 7).astype(np.int32),
    "bool": np.array([True, False, True]),
    "bfloat16": np.asarray(jnp.linspace(0, 1, 9, dtype=jnp.bfloat16)),
    "scalar": np.float32(2.5),
    "empty": np.zeros((0, 4), np.float32),
    "long": rng.normal(size=AT_ONCE + 3).astype(np.float32),
}


def slow_digest(array):
    """The formula, word by word in Python's own whole numbers."""
    flat = np.ascontiguousarray(array).reshape(-1)
    size = flat.dtype.itemsize
    words = flat.view({1: np.uint8, 2: np.uint16}.get(size, np.uint32)).tolist()
    sums = []
    for c in (0x9E3779B9, 0x85EBCA77):
        total = 0
        for i, word in enumerate(words):
            x = (word + (i + 1) * c) % 2**32
            x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
            x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
            total += x ^ (x >> 16)
        sums.append(total % 2**32)
    return sums


def test_the_formula_on_devices_and_on_the_host():
    expected = np.array([slow_digest(array) for _, array in sorted(ARRAYS.items())], np.uint32)
    np.testing.assert_array_equal(host_digest_words(ARRAYS), expected)
    np.testing.assert_array_equal(jax.jit(digest_words)(ARRAYS), expected)


def test_numbers_of_64_bits_and_keys():
    with jax.enable_x64(True):
        tree = {"wide": jnp.linspace(0, 1, 5, dtype=jnp.float64), "key": jax.random.key(3)}
        np.testing.assert_array_equal(digest_words(tree), host_digest_words(tree))
        assert host_digest_words(tree)[1].tolist() == slow_digest(np.linspace(0, 1, 5))


def test_it_is_the_same_however_an_array_is_spread():
    whole = rng.normal(size=(8, 6)).astype(np.float32)
    spread = share_out(whole, local_devices(4))
    assert spread.sharding.num_devices == 4
    np.testing.assert_array_equal(jax.jit(digest_words)([spread]), host_digest_words([whole]))


@pytest.mark.parametrize("bit", [0, 7, 13, 31])
def test_any_one_bit_changes_both_sums(bit):
    whole = rng.normal(size=100).astype(np.float32)
    before = host_digest_words([whole])
    for place in (0, 41, 99):
        changed = whole.copy()
        changed.view(np.uint32)[place] ^= np.uint32(1) << np.uint32(bit)
        assert (host_digest_words([changed]) != before).all()


def test_exchanged_and_moved_words_change_it():
    whole = np.arange(10, dtype=np.float32)
    for changed in (whole[::-1], np.roll(whole, 1), np.append(whole, 0)):
        assert (host_digest_words([changed]) != host_digest_words([whole])).all()


def test_names_and_texts():
    tree = {"b": (jnp.zeros(2), jnp.ones(2)), "a": jnp.zeros(1)}
    assert array_names(tree) == ["a", "b/0", "b/1"]
    texts = digest_texts(tree, digest_words(tree))
    assert list(texts) == array_names(tree)
    assert all(len(text) == 16 for text in texts.values())
    assert texts["b/0"] != texts["b/1"]
