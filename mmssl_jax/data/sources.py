"""The files of a dataset folder as bytes, text and JSON; whatever is wrong is a DatasetError."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.files import read_regular
from mmssl_jax.messages import shown

BYTE_ORDER_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def file_names(folder: Path) -> list[str]:
    """Names of what lies in the folder, sorted; hidden ones do not count, such as the `._x` that a
    Mac writes beside every x, and `.DS_Store`.

    Raises DatasetError for what is no folder or cannot be listed.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError as error:
        raise DatasetError(
            f"{folder}: nothing there, expected a folder with the dataset's files"
        ) from error
    except NotADirectoryError as error:
        raise DatasetError(
            f"{folder}: a file there, expected a folder with the dataset's files"
        ) from error
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the path
        raise DatasetError(
            f"{folder}: cannot be read ({_reason(error)}), expected a folder with the dataset's "
            "files"
        ) from error
    return sorted(name for name in names if not name.startswith("."))


def names_with(folder: Path, suffix: str) -> list[str]:
    """Names of the files with something before a suffix, sorted.

    Raises DatasetError for a name that cannot be printed, of which nothing could be told.
    """
    names = [name for name in file_names(folder) if name.endswith(suffix) and name != suffix]
    for name in names:
        if not name.isprintable():
            raise DatasetError(
                f"{folder}: the file name {shown(name)} holds what cannot be printed; rename it"
            )
    return names


def require_files(folder: Path, names: Sequence[str], layout: str) -> None:
    """Raise DatasetError that names every one of the files that the folder lacks."""
    there = file_names(folder)
    missing = [name for name in names if name not in there]
    if missing:
        raise DatasetError(
            f"{folder}: missing {', '.join(missing)}; the {layout} layout expects "
            f"{', '.join(names)}"
        )


def read_bytes(path: Path) -> bytes:
    """The whole file; raise DatasetError for what is no regular file or cannot be read."""
    try:
        return read_regular(path)
    except OSError as error:
        raise unreadable(path, error) from error
    except MemoryError as error:
        raise DatasetError(f"{path}: larger than the memory that is free") from error


def unreadable(path: Path, error: OSError) -> DatasetError:
    """What a file that cannot be read ends in."""
    return DatasetError(f"{path}: cannot be read ({_reason(error)}), expected a file")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark; raise DatasetError for any other."""
    content = read_bytes(path)
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            raise DatasetError(
                f"{path.name}: not UTF-8 but {encoding}, by its first bytes; expected UTF-8 text; "
                "save it again in that encoding"
            )
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise DatasetError(
            f"{path.name}: a NUL byte in line {line}; expected UTF-8 text, in which there is none; "
            "is the file damaged, or in UTF-16? Save it again as UTF-8"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{path.name}: not UTF-8, byte 0x{content[error.start]:02x} in line {line}; expected "
            "UTF-8 text; save it again in that encoding"
        ) from error


def read_json(path: Path, expected: str) -> Any:
    """The content of a JSON file.

    expected: what it should hold, for messages. Raises DatasetError for malformed JSON, and for an
    object that names a key twice, of which a parser would keep the second alone.
    """
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except _RepeatedKey as error:
        raise DatasetError(
            f"{path.name}: the key {shown(error.args[0])} appears twice, expected each key once; "
            "join the two entries"
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise DatasetError(
            f"{path.name}: malformed JSON ({_fault(text, error)}); expected {expected}"
        ) from error


class _RepeatedKey(Exception):
    """A JSON object names this key twice."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RepeatedKey(key)
            seen.add(key)
    return found


def _fault(text: str, error: Exception) -> str:
    if not text.strip():
        return "the file is empty"
    if isinstance(error, RecursionError):
        return "brackets are nested too deeply"
    if isinstance(error, MemoryError):
        return "it needs more memory than is free"
    if isinstance(error, json.JSONDecodeError):
        return str(error)
    # What is left is a whole number of more digits than Python reads.
    longest = max(re.finditer(r"[0-9]+", text), key=lambda run: run.end() - run.start())
    line = text.count("\n", 0, longest.start()) + 1
    return f"a number of {longest.end() - longest.start():,} digits in line {line}"
