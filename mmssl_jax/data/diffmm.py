"""The layout of DiffMM: trnMat.pkl, valMat.pkl and tstMat.pkl, pickled SciPy COO matrices.

A pickle is a program. The one here may name four globals, and each name resolves to a class of this
module that only records what it is given. So neither SciPy nor even NumPy runs on a pickle's word:
the arrays are decoded afterwards, from recorded bytes whose type and length were checked first.
"""

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.data.dataset import (
    MAX_ID,
    SPLITS,
    DatasetError,
    Interactions,
    read_bytes,
    require_files,
    unique_edges,
)

FILES = ("trnMat.pkl", "valMat.pkl", "tstMat.pkl")
TYPE_CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
ADVICE = "save it again as scipy.sparse.coo_matrix with pickle protocol 3 or 4"


class _Recorded:
    """Constructor arguments and state as the pickle gives them, kept and never acted on.

    Every stand-in is a class with __setstate__: on a function, or on a class without it, a pickle
    could overwrite attributes.
    """

    args: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Matrix(_Recorded):
    """scipy.sparse.coo_matrix."""


class _Array(_Recorded):
    """numpy.core.multiarray._reconstruct: the array that it would make."""


class _ArrayType(_Recorded):
    """numpy.ndarray, an argument of _reconstruct."""


class _Dtype(_Recorded):
    """numpy.dtype."""


ALLOWED: dict[str, type[_Recorded]] = {
    "scipy.sparse.coo.coo_matrix": _Matrix,
    "scipy.sparse._coo.coo_matrix": _Matrix,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.ndarray": _ArrayType,
    "numpy.dtype": _Dtype,
}


def read_interactions(folder: Path) -> Interactions:
    """Read the three matrices [users, items]; nonzero entries are interactions.

    Raises DatasetError on a missing or malformed file, on a pickle that names anything but the four
    globals of a COO matrix, and on shapes that disagree.
    """
    require_files(folder, FILES, "diffmm")
    shapes, splits = {}, {}
    for split, file in zip(SPLITS, FILES, strict=True):
        shapes[file], splits[split] = _read_matrix(folder / file)
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{file} is {rows} x {cols}" for file, (rows, cols) in shapes.items())
        raise DatasetError(f"{found}; expected one shape, users x items, for all three")
    n_users, n_items = shapes[FILES[0]]
    files = dict(zip(SPLITS, FILES, strict=True))
    return Interactions(splits=splits, files=files, n_users=n_users, n_items=n_items)


def _read_matrix(path: Path) -> tuple[tuple[int, int], NDArray[np.int32]]:
    """Shape (users, items) and int32 [E, 2] of one file."""
    fields = _matrix_fields(path.name, _load(path))
    shape = _shape(path.name, fields)
    rows, columns = _coordinates(path.name, fields)
    values = _array(path.name, "data", fields.get("data"))
    if not len(rows) == len(columns) == len(values):
        raise DatasetError(
            f"{path.name}: {len(rows)} rows, {len(columns)} columns and {len(values)} values, "
            f"expected as many of each; {ADVICE}"
        )
    for what, ids, size in (("row", rows, shape[0]), ("column", columns, shape[1])):
        _check_ids(path.name, what, ids, size)
    kept = values != 0
    return shape, unique_edges(rows[kept], columns[kept], path.name)


class _Unpickler(pickle.Unpickler):
    """Resolves the allowed names to stand-ins and refuses all others before anything is called."""

    def __init__(self, content: bytes, file: str) -> None:
        super().__init__(BytesIO(content))
        self._file = file

    def find_class(self, module: str, name: str) -> type[_Recorded]:
        asked = f"{module}.{name}"
        if asked not in ALLOWED:
            raise DatasetError(
                f"{self._file}: the pickle asks for {asked!r}, which was refused and not run; "
                f"expected only {', '.join(ALLOWED)}; {ADVICE}, and only from a source you trust"
            )
        return ALLOWED[asked]


def _load(path: Path) -> Any:
    try:
        return _Unpickler(read_bytes(path), path.name).load()
    except DatasetError:
        raise
    except Exception as error:  # bytes that are no pickle end in nearly any exception
        raise DatasetError(
            f"{path.name}: malformed pickle ({type(error).__name__}: {error}), "
            f"expected a COO matrix; {ADVICE}"
        ) from error


def _matrix_fields(file: str, loaded: Any) -> dict[str, Any]:
    if not isinstance(loaded, _Matrix) or not isinstance(loaded.state, dict):
        raise DatasetError(
            f"{file}: holds {type(loaded).__name__.lstrip('_')}, expected a COO matrix; {ADVICE}"
        )
    return loaded.state


def _shape(file: str, fields: dict[str, Any]) -> tuple[int, int]:
    shape = fields.get("_shape")
    if (
        not isinstance(shape, tuple)
        or len(shape) != 2
        or any(type(size) is not int or not 0 <= size <= MAX_ID for size in shape)
    ):
        raise DatasetError(f"{file}: matrix shape {shape!r}, expected (users, items); {ADVICE}")
    return cast(tuple[int, int], shape)


def _coordinates(file: str, fields: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column indices; SciPy kept them as row and col, and since 1.11 as coords."""
    pair = fields.get("coords", (fields.get("row"), fields.get("col")))
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise DatasetError(f"{file}: coords is not a pair, expected rows and columns; {ADVICE}")
    return _array(file, "row", pair[0]), _array(file, "col", pair[1])


def _array(file: str, what: str, recorded: Any) -> np.ndarray:
    """A recorded 1-d array, decoded; its state is (version, shape, dtype, is_fortran, bytes)."""
    state = recorded.state if isinstance(recorded, _Array) else None
    if not isinstance(state, tuple) or len(state) != 5:
        raise DatasetError(f"{file}: {what} is not a NumPy array, expected one; {ADVICE}")
    dtype = _dtype(file, what, state[2])
    shape, content = state[1], state[4]
    count, left_over = divmod(len(content) if isinstance(content, bytes) else -1, dtype.itemsize)
    if count < 0 or left_over or shape != (count,):
        raise DatasetError(
            f"{file}: {what} has shape {shape!r} of {dtype}, which its bytes do not fill, expected "
            f"1-d; {ADVICE}"
        )
    return np.frombuffer(content, dtype)


def _dtype(file: str, what: str, recorded: Any) -> np.dtype:
    """A recorded dtype: arguments (code, ...), state (version, byte order, ...)."""
    code = recorded.args[0] if isinstance(recorded, _Dtype) and recorded.args else None
    if code not in TYPE_CODES:
        raise DatasetError(
            f"{file}: {what} has dtype {code!r}, expected a number type ({', '.join(TYPE_CODES)}); "
            f"arrays of objects are refused; {ADVICE}"
        )
    state = recorded.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
    return np.dtype(f"{order if order in ('<', '>') else '='}{code}")


def _check_ids(file: str, what: str, ids: np.ndarray, size: int) -> None:
    if ids.dtype.kind not in "iu":
        raise DatasetError(f"{file}: {what} ids are {ids.dtype}, expected whole numbers; {ADVICE}")
    outside = np.flatnonzero((ids < 0) | (ids >= size))
    if len(outside):
        raise DatasetError(
            f"{file}: entry {outside[0]} has {what} {ids[outside[0]]}, expected 0 to {size - 1}, "
            f"the matrix's shape; {ADVICE}"
        )
