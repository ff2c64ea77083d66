"""The layout of DiffMM: trnMat.pkl, valMat.pkl and tstMat.pkl, pickled SciPy COO matrices.

A pickle is a program, which is not run here: `pickles.recorded` tells what it would call, and only
the four names of a matrix of numbers are allowed. So neither SciPy nor even NumPy runs on a
pickle's word: the arrays are decoded afterwards, from bytes whose type and length were checked.
"""

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.data.dataset import MAX_ID, SPLITS, DatasetError, Interactions, unique_edges
from mmssl_jax.data.numbering import refuse_far_id
from mmssl_jax.data.pickles import PickleFault, Recorded, RefusedName, recorded
from mmssl_jax.data.sources import read_bytes, require_files
from mmssl_jax.messages import shown

FILES = ("trnMat.pkl", "valMat.pkl", "tstMat.pkl")
TYPE_CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
ADVICE = "save it again as scipy.sparse.coo_matrix with pickle protocol 3 or 4"


MATRIX_NAMES = ("scipy.sparse.coo.coo_matrix", "scipy.sparse._coo.coo_matrix")
ARRAY_NAMES = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
ALLOWED = (*MATRIX_NAMES, *ARRAY_NAMES, "numpy.ndarray", "numpy.dtype")


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
    n_named = len(np.unique(np.concatenate([edges[:, 0] for edges in splits.values()])))
    refuse_far_id(f"{FILES[0]}, shape {n_users} x {n_items}", "user", n_users - 1, n_named)
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
    if np.isnan(values).any():
        place = int(np.flatnonzero(np.isnan(values))[0])
        raise DatasetError(f"{path.name}: entry {place} has value NaN, expected a number; {ADVICE}")
    kept = values != 0
    return shape, unique_edges(rows[kept], columns[kept], path.name)


def _load(path: Path) -> Any:
    try:
        return recorded(read_bytes(path), ALLOWED)
    except RefusedName as error:
        raise DatasetError(
            f"{path.name}: the pickle asks for {shown(error.args[0])}, which was refused and not "
            f"run; expected only {', '.join(ALLOWED)}; {ADVICE}, and only from a source you trust"
        ) from error
    except PickleFault as error:
        raise DatasetError(
            f"{path.name}: malformed pickle ({error}), expected a COO matrix; {ADVICE}"
        ) from error


def _matrix_fields(file: str, loaded: Any) -> dict[str, Any]:
    if not _is_call(loaded, MATRIX_NAMES) or not isinstance(loaded.state, dict):
        raise DatasetError(f"{file}: holds {_kind(loaded)}, expected a COO matrix; {ADVICE}")
    return loaded.state


def _is_call(found: Any, names: tuple[str, ...]) -> bool:
    return isinstance(found, Recorded) and found.name.text in names


def _kind(found: Any) -> str:
    return found.name.text if isinstance(found, Recorded) else type(found).__name__


def _shape(file: str, fields: dict[str, Any]) -> tuple[int, int]:
    shape = fields.get("_shape")
    if (
        not isinstance(shape, tuple)
        or len(shape) != 2
        or any(type(size) is not int or not 0 <= size <= MAX_ID for size in shape)
    ):
        raise DatasetError(
            f"{file}: matrix shape {shown(shape)}, expected (users, items), each up to "
            f"{MAX_ID}; {ADVICE}"
        )
    return cast(tuple[int, int], shape)


def _coordinates(file: str, fields: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column indices; SciPy kept them as row and col, and since 1.11 as coords."""
    pair = fields.get("coords", (fields.get("row"), fields.get("col")))
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise DatasetError(f"{file}: coords is not a pair, expected rows and columns; {ADVICE}")
    return _array(file, "row", pair[0]), _array(file, "col", pair[1])


def _array(file: str, what: str, found: Any) -> np.ndarray:
    """A recorded 1-d array, decoded; its state is (version, shape, dtype, is_fortran, bytes)."""
    state = found.state if _is_call(found, ARRAY_NAMES) else None
    if not isinstance(state, tuple) or len(state) != 5:
        raise DatasetError(f"{file}: {what} is not a NumPy array, expected one; {ADVICE}")
    dtype = _dtype(file, what, state[2])
    shape, content = state[1], state[4]
    count, left_over = divmod(len(content) if isinstance(content, bytes) else -1, dtype.itemsize)
    if count < 0 or left_over or shape != (count,):
        raise DatasetError(
            f"{file}: {what} has shape {shown(shape)} of {dtype}, which its bytes do not fill, "
            f"expected 1-d; {ADVICE}"
        )
    return np.frombuffer(content, dtype)


def _dtype(file: str, what: str, found: Any) -> np.dtype:
    """A recorded dtype: arguments (code, ...), state (version, byte order, ...)."""
    code = found.args[0] if _is_call(found, ("numpy.dtype",)) and found.args else None
    if code not in TYPE_CODES:
        raise DatasetError(
            f"{file}: {what} has dtype {shown(code)}, expected a number type "
            f"({', '.join(TYPE_CODES)}); arrays of objects are refused; {ADVICE}"
        )
    state = found.state
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
