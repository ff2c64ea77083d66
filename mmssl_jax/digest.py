"""A digest of a tree of arrays, by which a changed bit is noticed.

Each array is read as 32-bit words w_i. Its digest is two sums over i, modulo 2^32, of mixed words

    h_s = sum_i mix(w_i + (i + 1) c_s),   s = 1, 2,

with mix a bijection of 32-bit words, so that one changed word always changes both, and exchanged
words change them too, but for one chance in 2^64. As sums they are the same however an array is
spread over devices: they are computed where it lies when it is saved, and by NumPy when it is read.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, UInt32
from numpy.typing import NDArray

STRIDES = np.array([0x9E3779B9, 0x85EBCA77], np.uint32)  # c_s: odd, so that places differ
AT_ONCE = 2**17  # words on the host, whose temporary arrays then stay in the cache


def array_names(tree: PyTree) -> list[str]:
    """The path of each array of a tree, such as `method/params/users`."""
    paths, _ = jax.tree.flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


def digest_words(tree: PyTree) -> UInt32[Array, "L 2"]:
    """h_1 and h_2 of each of the L arrays of a tree, on its devices."""
    return jnp.stack([_device_sums(leaf) for leaf in jax.tree.leaves(tree)])


def host_digest_words(tree: PyTree) -> NDArray[np.uint32]:
    """The same on the host, which compiles nothing."""
    return np.stack([_host_sums(leaf) for leaf in jax.tree.leaves(tree)])


def describe(tree: PyTree) -> dict[str, str]:
    """{array's name: its type and shape, such as `float32 [60, 8]`}; the tree may be abstract."""
    leaves = jax.tree.leaves(tree)
    return {
        name: f"{leaf.dtype} {list(leaf.shape)}"
        for name, leaf in zip(array_names(tree), leaves, strict=True)
    }


def digest_texts(tree: PyTree, words: Array | NDArray[np.uint32]) -> dict[str, str]:
    """{array's name: its digest in hexadecimal}."""
    rows = np.asarray(words).tolist()
    return {
        name: f"{first:08x}{second:08x}"
        for name, (first, second) in zip(array_names(tree), rows, strict=True)
    }


def _device_sums(array: Array) -> UInt32[Array, "2"]:
    array = _without_keys(array)
    if array.dtype == bool:
        array = array.astype(jnp.uint8)
    to = _word_type(array.dtype)
    words = jax.lax.bitcast_convert_type(array, to).astype(jnp.uint32).reshape(-1)
    places = jnp.arange(1, words.size + 1, dtype=jnp.uint32)
    return jnp.stack([jnp.sum(_mix(words + places * c), dtype=jnp.uint32) for c in STRIDES])


def _host_sums(array: Array) -> NDArray[np.uint32]:
    flat = np.ascontiguousarray(jax.device_get(_without_keys(array))).reshape(-1)
    words, sums = flat.view(_word_type(flat.dtype)), np.zeros(2, np.uint32)
    for start in range(0, len(words), AT_ONCE):
        block = words[start : start + AT_ONCE].astype(np.uint32)
        places = np.arange(start + 1, start + len(block) + 1).astype(np.uint32)
        sums += [np.sum(_mix(block + places * c), dtype=np.uint32) for c in STRIDES]
    return sums


def _without_keys(array: Array) -> Array:
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(array) if is_key else array


def _word_type(dtype: np.dtype) -> np.dtype:
    """What an array's bits are read as: a number of 64 bits is two words, a smaller one is one."""
    return np.dtype({1: np.uint8, 2: np.uint16}.get(dtype.itemsize, np.uint32))


def _mix(words: Array | NDArray[np.uint32]) -> Array | NDArray[np.uint32]:
    """A bijection whose result depends on all bits of a word (MurmurHash3's last step)."""
    words = (words ^ (words >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    words = (words ^ (words >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return words ^ (words >> np.uint32(16))
