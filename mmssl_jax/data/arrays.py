"""Arrays of .npy files, whose sizes are compared with the file's before any memory is taken."""

import math
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.data.sources import unreadable
from mmssl_jax.files import open_regular
from mmssl_jax.messages import shown

# A header is a line of Python, which takes more and more time and memory to parse. NumPy reads no
# longer ones than 10,000 bytes, to which come at most 12 that say so.
LONGEST_HEADER = 10_012

Check = Callable[[np.dtype, tuple[int, ...]], None]


class Header(NamedTuple):
    """What the first `length` bytes of a .npy file say about those after them."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    length: int


def read_npy(path: Path, expected: str, check: Check) -> np.ndarray:
    """The array of a .npy file, writable, with the type and order that the file has.

    expected: what it should hold, for messages. check: raises DatasetError for a type or a shape
    that is not wanted; called before the values are read. Raises DatasetError for everything else
    that is wrong, such as fewer or more bytes than the shape needs. No pickled object is loaded.
    """
    try:
        with open_regular(path) as file:
            header = _parsed(path.name, expected, file.read(LONGEST_HEADER))
            check(header.dtype, header.shape)
            size = file.seek(0, 2) - header.length
            _check_size(path.name, expected, header, size)
            file.seek(header.length)
            values = np.fromfile(file, header.dtype, math.prod(header.shape))
        return values.reshape(header.shape, order="F" if header.fortran else "C")
    except OSError as error:
        raise unreadable(path, error) from error
    except MemoryError as error:
        raise DatasetError(f"{path.name}: larger than the memory that is free") from error


def dtype_name(dtype: np.dtype) -> str:
    """A type's name for messages, short however many fields it has."""
    return shown(str(dtype))[1:-1]


def _parsed(file: str, expected: str, start: bytes) -> Header:
    """The header at the start of a file."""
    content = BytesIO(start)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        version = np.lib.format.read_magic(content)
        if version not in readers:
            raise ValueError(f"version {version} of the format, which plain numbers never need")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            shape, fortran, dtype = readers[version](content)
        if any(type(size) is not int or size < 0 for size in shape):
            raise ValueError(f"shape {shown(shape)}")
    except Exception as error:  # what is no line of Python ends in nearly any exception
        reason = " ".join(str(error)[:200].split()) if start else "the file is empty"
        raise DatasetError(
            f"{file}: not a usable .npy file ({reason}); expected {expected}; save it again with "
            "numpy.save"
        ) from error
    return Header(dtype, shape, fortran, content.tell())


def _check_size(file: str, expected: str, header: Header, size: int) -> None:
    """size: of the bytes after the header."""
    needed = math.prod(header.shape) * header.dtype.itemsize
    if needed != size:
        what = "truncated" if size < needed else "more in it than one array"
        raise DatasetError(
            f"{file}: not a usable .npy file ({what}): shape {shown(header.shape)} of "
            f"{dtype_name(header.dtype)} needs {shown(needed)} bytes after the header, and {size} "
            f"are there; expected {expected}; copy it again, or save it with numpy.save"
        )
