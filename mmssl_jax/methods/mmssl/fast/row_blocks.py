"""Functions of the rows of tall arrays, block by block: memory for what goes in and comes out."""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from mmssl_jax.blocks import Block, fold_blocks, zeros_of_its_own

Params = TypeVar("Params")
Rows = TypeVar("Rows")
Outputs = TypeVar("Outputs")

# Rows handled at once: small catalogues are one block, work arrays of large ones stay small.
ROWS_AT_ONCE = 2**14


def map_row_blocks(
    function: Callable[[Params, Rows], Outputs], params: Params, rows: Rows
) -> Outputs:
    """`function(params, rows)` of arrays `[N, ...]`, for a function that maps each row by itself.

    Arrays of more than `ROWS_AT_ONCE` rows are walked in blocks, and the backward pass computes a
    block anew, so that nothing between `rows` and the result is kept for all N.

    Args:
      function: hashable, with nothing traced in it. Its outputs have the rows of its inputs.
      rows: a tree of float arrays with the same N.
    """
    if _length(rows) <= ROWS_AT_ONCE:
        return function(params, rows)
    outputs: Outputs = _in_blocks(function, params, rows)
    return outputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_blocks(function: Callable[[Params, Rows], Outputs], params: Params, rows: Rows) -> Outputs:
    return _forward(function, params, rows)[0]


def _forward(
    function: Callable[[Params, Rows], Outputs], params: Params, rows: Rows
) -> tuple[Outputs, tuple[Params, Rows]]:
    length = _length(rows)
    a_few = jax.tree.map(lambda x: x[:1], rows)
    source = jax.tree.leaves(rows)[0]
    start = jax.tree.map(
        lambda x: zeros_of_its_own((length, *x.shape[1:]), x.dtype, source),
        jax.eval_shape(function, params, a_few),
    )

    def one_block(outputs: Outputs, block: Block) -> Outputs:
        return block.put(outputs, function(params, block.cut(rows)))

    return fold_blocks(length, ROWS_AT_ONCE, start, one_block), (params, rows)


def _backward(
    function: Callable[[Params, Rows], Outputs],
    residuals: tuple[Params, Rows],
    cotangents: Outputs,
) -> tuple[Params, Rows]:
    params, rows = residuals

    def one_block(carry: tuple[Params, Rows], block: Block) -> tuple[Params, Rows]:
        of_params, of_rows = carry
        cut = block.cut(cotangents)
        new = block.only_new(cut, jax.tree.map(jnp.zeros_like, cut))
        added, here = jax.vjp(function, params, block.cut(rows))[1](new)
        here = block.only_new(here, block.cut(of_rows))
        return jax.tree.map(jnp.add, of_params, added), block.put(of_rows, here)

    start = (
        jax.tree.map(jnp.zeros_like, params),
        jax.tree.map(lambda x: zeros_of_its_own(x.shape, x.dtype, x), rows),
    )
    return fold_blocks(_length(rows), ROWS_AT_ONCE, start, one_block)


_in_blocks.defvjp(_forward, _backward)


def _length(rows: Rows) -> int:
    length: int = jax.tree.leaves(rows)[0].shape[0]
    return length
