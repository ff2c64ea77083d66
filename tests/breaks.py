"""Ways to spoil a file of a dataset folder."""

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Break = Callable[[Path], Any]


def put(content: bytes | str) -> Break:
    """The file holds this instead."""
    data = content.encode() if isinstance(content, str) else content
    return lambda path: path.write_bytes(data)


def edit(old: bytes, new: bytes) -> Break:
    def breaks(path: Path) -> None:
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))

    return breaks


def cut(keep: int) -> Break:
    return lambda path: path.write_bytes(path.read_bytes()[:keep])


def instead(make: Break) -> Break:
    """Something that is no file, where the file was."""

    def breaks(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return breaks


def link(target: str) -> Break:
    return instead(lambda path: path.symlink_to(target))


def linked_pipe(path: Path) -> None:
    os.mkfifo(path.parent / ".pipe")
    path.symlink_to(".pipe")


def array(values: Any, **kind: Any) -> Break:
    """The file is this array, saved by NumPy."""
    return lambda path: np.save(path, np.array(values, **kind))


def objects(path: Path) -> None:
    np.save(path, np.array([[{}]], object), allow_pickle=True)


def header(text: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> Break:
    """A .npy file with this header, whatever it says."""
    line = text.encode() + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", len(line))
    return put(b"\x93NUMPY" + bytes(version) + size + line + data)


def shape(written: str, descr: str = "'<f4'", data: bytes = b"") -> Break:
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {written}, }}", data)


def pickled(made: Any, protocol: int = 4) -> Break:
    return put(pickle.dumps(made, protocol))


def with_value(row: int, column: int, value: float) -> Break:
    rows = np.ones((5, 2), np.float64)
    rows[row, column] = value
    return array(rows)
