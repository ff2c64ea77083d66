"""Walking tall arrays in blocks of rows, so that work arrays have the size of a block."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

Carry = TypeVar("Carry")
Tree = TypeVar("Tree")  # a pytree of arrays

# Entries of vectors that a CPU's cache holds, and, for devices that walk wide arrays faster, an
# amount of memory that is small for all of them.
_ENTRIES_IN_CACHE, _ENTRIES_ELSEWHERE = 2**19, 2**22


def vectors_at_once(width: int) -> int:
    """How many vectors of `width` entries a sum over edges makes at a time.

    On a CPU few enough that they are still in its cache when they are added up.
    """
    entries = _ENTRIES_IN_CACHE if jax.default_backend() == "cpu" else _ENTRIES_ELSEWHERE
    return max(1, entries // width)


class Block(NamedTuple):
    """Rows `first` and following; `is_new` tells those that are in no block before."""

    first: Int[Array, ""]
    is_new: Bool[Array, " N"]

    def cut(self, tree: Tree) -> Tree:
        """The block's rows of every array."""
        size = self.is_new.shape[0]
        cut: Tree = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, self.first, size), tree)
        return cut

    def put(self, tree: Tree, rows: Tree) -> Tree:
        """The arrays with these rows in the block's place."""

        def put_one(x: Array, y: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(x, y, self.first, 0)

        placed: Tree = jax.tree.map(put_one, tree, rows)
        return placed

    def only_new(self, rows: Tree, otherwise: Tree | float) -> Tree:
        """The block's rows that are new, and the others from `otherwise`: rows as well, or for one
        array a number."""

        def select(x: Array, y: Array | float) -> Array:
            return jnp.where(self.is_new.reshape(-1, *[1] * (x.ndim - 1)), x, y)

        new: Tree = jax.tree.map(select, rows, otherwise)
        return new


def fold_blocks(
    length: int, size: int, start: Carry, visit: Callable[[Carry, Block], Carry]
) -> Carry:
    """Folds `visit(carry, block)` over blocks of at most `size` of the `length` rows.

    Blocks are equally long, so the last one, which ends with the last row, may overlap the one
    before by a few. Up to `size` rows are one block, without a loop.
    """
    if length <= size:
        return visit(start, Block(jnp.int32(0), jnp.ones(length, bool)))

    n_blocks = -(-length // size)
    size = -(-length // n_blocks)

    def one_block(index: Int[Array, ""], carry: Carry) -> Carry:
        first = jnp.minimum(index * size, length - size)
        return visit(carry, Block(first, first + jnp.arange(size) >= index * size))

    return jax.lax.fori_loop(0, n_blocks, one_block, start)


def zeros_of_its_own(
    shape: tuple[int, ...], dtype: DTypeLike, source: Float[Array, "..."]
) -> Shaped[Array, "..."]:
    """Zeros for a loop to fill, which XLA does not share between loops.

    Problem: XLA makes all zeros of one shape one array, keeps it from the first loop to the last,
    and copies it for each. Remedy: these are a comparison that is always false, but that XLA does
    not compute when it compiles, so that each loop has an array of its own.
    """
    if not source.size:
        return jnp.zeros(shape, dtype)
    return jnp.broadcast_to((source[(0,) * source.ndim] > jnp.inf).astype(dtype), shape)
