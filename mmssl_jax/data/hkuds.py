"""HKUDS's layout: {"user id": [item ids]} in train.json, val.json and test.json.

The pickled train_mat beside them says the same as train.json and is never opened.
"""

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mmssl_jax.data.dataset import (
    MAX_ID,
    SPLITS,
    DatasetError,
    Interactions,
    read_bytes,
    require_files,
    unique_edges,
)

FILES = ("train.json", "val.json", "test.json")
PLAIN_DECIMAL = re.compile(r"0|[1-9][0-9]{0,9}")  # one spelling per id: "01" would hide a duplicate


def read_interactions(folder: Path) -> Interactions:
    """Read the three files; n_users is the largest user id of any of them plus one.

    Raises DatasetError on a missing or malformed file and on ids that are not whole numbers from 0.
    """
    require_files(folder, FILES, "hkuds")
    files = dict(zip(SPLITS, FILES, strict=True))
    lists = {split: _read_lists(folder / file) for split, file in files.items()}
    splits = {split: _edges(items_of, files[split]) for split, items_of in lists.items()}
    n_users = 1 + max(chain.from_iterable(lists.values()), default=-1)
    return Interactions(splits=splits, files=files, n_users=n_users)


def _read_lists(path: Path) -> dict[int, list[int]]:
    """{user id: item ids} of one file, every id checked."""
    try:
        found = json.loads(read_bytes(path).decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except _RepeatedKey as error:
        raise DatasetError(
            f"{path.name}: user {error.args[0]!r} appears twice, expected each user once; "
            f"join the two lists"
        ) from error
    except DatasetError:
        raise
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path.name}: malformed JSON ({error}); expected an object of user id -> [item ids]"
        ) from error
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
            f"{file}: user id {key!r}, expected a whole number from 0 to {MAX_ID} as a plain "
            f"decimal string; number the users from 0"
        )
    return int(key)


def _item_ids(file: str, user: str, items: Any) -> list[int]:
    if not isinstance(items, list):
        raise DatasetError(f"{file}: user {user} has {items!r}, expected a list of item ids")
    for item in items:
        if type(item) is not int or not 0 <= item <= MAX_ID:  # a bool is an int to isinstance
            raise DatasetError(
                f"{file}: user {user} has item {json.dumps(item)}, expected a whole number from 0 "
                f"to {MAX_ID}; number the items by their feature row"
            )
    return items


class _RepeatedKey(Exception):
    """A JSON object names this key twice, of which json would silently keep the second."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKey(next(key for key in found if keys.count(key) > 1))
    return found
