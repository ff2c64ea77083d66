"""Arrays of .npz files, none of which takes more memory than the file says that it holds."""

import math
import zipfile
from pathlib import Path

import numpy as np

from mmssl_jax.messages import shown

LARGE = 2**30  # bytes of an array: to grow to more is a choice


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of an .npz file, each of which has the size that the archive states.

    Raises ValueError, KeyError, OSError and whatever NumPy raises for what is none.
    """
    with zipfile.ZipFile(path) as archive:
        for name in names:
            _check_member(archive, f"{name}.npy")
        with np.load(path, allow_pickle=False) as saved:
            return {name: saved[name] for name in names}


def _check_member(archive: zipfile.ZipFile, name: str) -> None:
    """Raises ValueError for an array that is said to be larger than its part of the archive."""
    info = archive.getinfo(name)
    size = info.file_size
    if size > LARGE and size > 100 * info.compress_size:
        raise ValueError(
            f"{name} would grow from {info.compress_size:,} to {size:,} bytes; save it with "
            "numpy.savez, which does not compress"
        )
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}
        shape, _, dtype = read.get(version, np.lib.format.read_array_header_2_0)(file)
        stated = math.prod(shape) * max(1, dtype.itemsize)
    if dtype.hasobject or stated > size or min(shape, default=0) < 0:
        raise ValueError(f"{name} is {dtype} of shape {shown(shape)} in {size:,} bytes")
