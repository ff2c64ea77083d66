"""What encoders returned, on disk by content: the same text or image is encoded once."""

import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.files import user_path
from mmssl_jax.messages import clipped
from mmssl_jax.prepare.npz import read_npz
from mmssl_jax.prepare.paths import input_file, reason_of

Rows = dict[str, NDArray[np.float32]]  # by content hash


def content_hash(content: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(content).hexdigest()


def default_cache() -> Path | None:
    """`mmssl_jax` in the user's folder of caches; None for a user without a home folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or user_path("~/.cache"))
    return home / "mmssl_jax" if home.is_absolute() else None


def writable_cache(named: str) -> Path | None:
    """The folder to keep rows in: the one named, or else the default one if it can be written.

    Raises DatasetError when the one that is named cannot be.
    """
    cache = Path(named) if named else default_cache()
    if cache is None:
        return None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            return cache
    except OSError as error:
        if named:
            raise DatasetError(
                f"cache {cache}: cannot be written ({reason_of(error)}); name another --cache"
            ) from error
        tell_unkept(cache, error)
        return None


def tell_unkept(folder: Path, error: OSError) -> None:
    """Says that rows are not kept for the next time; the work goes on."""
    why = reason_of(error)
    print(clipped(f"{folder}: cannot be written ({why}); what is encoded is not kept in a cache"))


def encoder_folder(cache: Path, kind: str, encoder: str, model: str) -> Path:
    """Where the rows of an encoder with a model are kept.

    A local model counts by its files' names, sizes and times, so that another one in the same place
    is another model. A change in an encoder's code is not seen.
    """
    files = [
        (str(file.relative_to(part)), file.stat().st_size, file.stat().st_mtime_ns)
        for part in map(Path, model.split(","))
        if str(part) != "." and part.exists()
        for file in (sorted(part.rglob("*")) if part.is_dir() else [part])
        if file.is_file()
    ]
    identity = json.dumps([kind, encoder, model, files])
    return cache / f"{kind}-{content_hash(identity.encode())[:16]}"


def load_rows(folder: Path) -> Rows:
    """Every row of a folder; files that are not whole are skipped, what they held is encoded
    again."""
    rows: Rows = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            rows.update(_rows_of(input_file(path)))
        except Exception:  # a damaged header may be wrong in any way
            continue
    return rows


def _rows_of(path: Path) -> Rows:
    """The rows of one file; raises ValueError for arrays that `save_rows` does not write."""
    saved = read_npz(path, ("hashes", "rows"))
    hashes, rows = saved["hashes"], saved["rows"]
    if rows.ndim != 2 or rows.dtype != np.float32 or not np.isfinite(rows).all():
        raise ValueError(f"{path}: rows are {rows.dtype} of shape {rows.shape}")
    return dict(zip(hashes.astype(str).tolist(), rows, strict=True))


def save_rows(folder: Path, rows: Rows) -> None:
    """Adds rows as one more file, which appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes = np.array(list(rows))
    name = content_hash("".join(rows).encode())[:16]
    unfinished = folder / f"{name}.{os.getpid()}.tmp"
    with unfinished.open("wb") as file:
        np.savez(file, hashes=hashes, rows=np.stack(list(rows.values())))
    unfinished.replace(folder / f"{name}.npz")
