"""Reading the JSON files that this package writes, which may have been cut off or changed since."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from mmssl_jax.files import read_regular
from mmssl_jax.messages import shown

MOST_BYTES = 16_000_000

# A run's record of its dataset, and what must be in it.
DATASET_RECORD = "a run's or study's record of its dataset; without it, start anew elsewhere"
DATASET_KEYS = {
    "name": str, "fingerprint": str, "users": int, "items": int, "modalities": dict,
}  # fmt: skip


def read_json(
    path: Path,
    what: str,
    error: type[Exception],
    keys: Mapping[str, Any] | None = None,
    most: int = MOST_BYTES,
) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
      what: what the file is, and what to do where it is damaged, for the message.
      error: the kind that is raised, with the file and what is wrong in it, for anything but an
        object of finite numbers without a repeated key.
      keys: {key: class, or tuple of classes} that must be there.
      most: bytes that are read.
    """

    def no_number(text: str) -> NoReturn:
        raise ValueError(f"{text} is no number")

    def finite(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{shown(text)} is no finite number")
        return value

    try:
        text = read_regular(path, most).decode("utf-8")
        found = json.loads(
            text, object_pairs_hook=_unique, parse_constant=no_number, parse_float=finite
        )
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror}); it is {what}") from cause
    except UnicodeDecodeError as cause:
        raise error(f"{path} is damaged (not UTF-8): it is {what}") from cause
    except RecursionError as cause:
        raise error(f"{path} is damaged (too many levels): it is {what}") from cause
    except ValueError as cause:
        raise error(f"{path} is damaged (not JSON: {cause}): it is {what}") from cause
    if not isinstance(found, dict):
        raise error(f"{path} is damaged (holds {shown(found)}, expected an object): it is {what}")
    for key, kind in (keys or {}).items():
        if key not in found:
            raise error(f"{path} is damaged (has no {key!r}): it is {what}")
        if not isinstance(found[key], kind):
            raise error(f"{path} is damaged ({key!r} is {shown(found[key])}): it is {what}")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {shown(twice)} twice")
    return found
