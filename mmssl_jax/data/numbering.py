"""Ids that are numbers from 0: how they are written, and which are too far from the others."""

import re

from mmssl_jax.data.dataset import DatasetError

PLAIN_DECIMAL = re.compile(r"0|[1-9][0-9]{0,9}")  # one spelling per id: "01" would hide a duplicate
MANY = 1_000_000  # so many users or items are never refused, however few are named
MOST_PER_NAMED = 100  # above MANY, so many users or items for each one that the data names


def refuse_far_id(where: str, kind: str, largest: int, n_named: int) -> None:
    """Raise DatasetError where the largest id makes far more users or items than the data names.

    Every number up to the largest id gets a row in the model, so one raw id among numbered ones
    would fill the memory with rows of nobody. where: file, and place in it. kind: "user" or "item".
    n_named: how many different ones the data names.
    """
    size = largest + 1
    if size > MANY and size > MOST_PER_NAMED * n_named:
        raise DatasetError(
            f"{where}: {kind} {largest} makes {size:,} {kind}s, of which the data names "
            f"{n_named:,}; expected {kind} ids that count from 0; number the {kind}s from 0 "
            f"without large gaps, as `python -m mmssl_jax.prepare` does with raw ids"
        )
