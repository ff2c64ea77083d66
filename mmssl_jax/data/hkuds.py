"""HKUDS's layout: {"user id": [item ids]} in train.json, val.json and test.json.

The pickled train_mat beside them says the same as train.json and is never opened.
"""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mmssl_jax.data.dataset import MAX_ID, SPLITS, DatasetError, Interactions, unique_edges
from mmssl_jax.data.numbering import PLAIN_DECIMAL, refuse_far_id
from mmssl_jax.data.sources import read_json, require_files
from mmssl_jax.messages import shown

FILES = ("train.json", "val.json", "test.json")


def read_interactions(folder: Path) -> Interactions:
    """Read the three files; n_users is the largest user id of any of them plus one.

    Raises DatasetError on a missing or malformed file, on ids that are not whole numbers from 0,
    and on a user id far beyond the others.
    """
    require_files(folder, FILES, "hkuds")
    files = dict(zip(SPLITS, FILES, strict=True))
    lists = {split: _read_lists(folder / file) for split, file in files.items()}
    splits = {split: _edges(items_of, files[split]) for split, items_of in lists.items()}
    largest = {files[split]: max(users) for split, users in lists.items() if users}
    if largest:
        where = max(largest, key=lambda file: largest[file])
        n_named = len(set(chain.from_iterable(lists.values())))
        refuse_far_id(where, "user", largest[where], n_named)
    return Interactions(splits=splits, files=files, n_users=1 + max(largest.values(), default=-1))


def _read_lists(path: Path) -> dict[int, list[int]]:
    """{user id: item ids} of one file, every id checked."""
    found = read_json(path, "an object of user id -> [item ids]")
    if not isinstance(found, dict):
        raise DatasetError(
            f"{path.name}: the top level is a JSON {type(found).__name__}, expected an object of "
            f'user id -> [item ids], like {{"0": [3, 14]}}'
        )
    return {_user_id(path.name, key): _item_ids(path.name, key, v) for key, v in found.items()}


def _edges(lists: dict[int, list[int]], file: str) -> np.ndarray:
    lengths = [len(items) for items in lists.values()]
    users = np.repeat(np.fromiter(lists, np.int64, len(lists)), lengths)
    items = np.fromiter(chain.from_iterable(lists.values()), np.int64, sum(lengths))
    return unique_edges(users, items, file)


def _user_id(file: str, key: str) -> int:
    if not PLAIN_DECIMAL.fullmatch(key) or int(key) > MAX_ID:
        raise DatasetError(
            f"{file}: user id {shown(key)}, expected a whole number from 0 to {MAX_ID} as a plain "
            f"decimal string; number the users from 0, as `python -m mmssl_jax.prepare` does"
        )
    return int(key)


def _item_ids(file: str, user: str, items: Any) -> list[int]:
    if not isinstance(items, list):
        raise DatasetError(
            f"{file}: user {user} has {_written(items)}, expected a list of item ids"
        )
    for item in items:
        if type(item) is not int or not 0 <= item <= MAX_ID:  # a bool is an int to isinstance
            raise DatasetError(
                f"{file}: user {user} has item {_written(item)}, expected a whole number from 0 "
                f"to {MAX_ID}; number the items by their feature row"
            )
    return items


def _written(value: Any) -> str:
    """A value as JSON writes it where that is short."""
    return json.dumps(value) if isinstance(value, bool | float | None) else shown(value)
