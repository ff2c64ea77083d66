"""What encoders returned, on disk by content: the same text or image is encoded once."""

import hashlib
import json
import os
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

Rows = dict[str, NDArray[np.float32]]  # by content hash


def content_hash(content: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(content).hexdigest()


def default_cache() -> Path:
    """The user's folder of caches, mmssl_jax in it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmssl_jax"


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
    """Every row of a folder; files that are not whole are skipped."""
    rows: Rows = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
                rows.update(zip(saved["hashes"].tolist(), saved["rows"], strict=True))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            continue
    return rows


def save_rows(folder: Path, rows: Rows) -> None:
    """Adds rows as one more file, which appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes = np.array(list(rows))
    name = content_hash("".join(rows).encode())[:16]
    unfinished = folder / f"{name}.{os.getpid()}.tmp"
    with unfinished.open("wb") as file:
        np.savez(file, hashes=hashes, rows=np.stack(list(rows.values())))
    unfinished.replace(folder / f"{name}.npz")
