"""Malformed input for `mmssl_jax.prepare`: files of a small shop, and what is said of them."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmssl_jax.cli.prepare import main
from tests import shop

LOG = "user_id,item_id,rating,time\nu1,a,5,1\nu1,b,4,2\nu1,c,3,3\nu2,a,2,4\nu2,c,1,5\nu3,b,3,6\n"
ITEMS = "item_id,title\na,abba\nb,cab\nc,acc\n"
Content = str | bytes | Callable[[Path], object]
Case = tuple[dict[str, Content], list[str], str]  # files, flags, what is said

IDS = np.array(["a", "b", "c"])
# Flags, with {} for the shop's folder.
TEXT = ["--items={}/items.csv", "--text.column=title", "--text.encoder=tests.shop:letters"]
VISUAL = ["--features=v={}/v.npz"]


def npy(array: np.ndarray, **options) -> bytes:
    """The bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    """The bytes of an .npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy_header(text: str) -> bytes:
    """An .npy file of 64 bytes of data that says this of itself."""
    header = text.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)


def npz_of(**members: bytes) -> bytes:
    """An .npz file of these bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def parquet(**columns) -> bytes:
    """The bytes of a Parquet table."""
    file = io.BytesIO()
    pl = pytest.importorskip("polars", reason="needs the extra `tables`")
    pl.DataFrame(columns, strict=False).write_parquet(file)
    return file.getvalue()


def claims(shape: str, descr: str = "<f4") -> bytes:
    return npy_header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}")


def written(folder: Path, files: dict[str, Content]) -> None:
    """A good shop in the folder, but for these files."""
    good: dict[str, Content] = {
        "log.csv": LOG,
        "items.csv": ITEMS,
        "v.npz": npz(ids=IDS, features=np.eye(3)),
    }
    for name, content in {**good, **files}.items():
        path = folder / name
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def prepared(folder: Path, flags: list[str]) -> Path:
    """Where `prepare` writes, given these flags after those of the shop."""
    given = ["--interactions={}/log.csv", "--out={}/out", "--cache={}/cache", "--core.users=1"]
    given += ["--core.items=1", "--split.method=leave_one_out", *flags]
    main([flag.replace("{}", str(folder)) for flag in given])
    return folder / "out"


def assert_told(folder: Path, capfd: pytest.CaptureFixture, case: Case) -> None:
    """One short message with these words and exit status 2, before anything is encoded or made."""
    files, flags, says = case
    written(folder, files)
    shop.calls.clear()
    with pytest.raises(SystemExit) as left:
        prepared(folder, flags)
    told = capfd.readouterr().err
    assert left.value.code == 2
    assert says in told
    assert told.startswith("error: ")
    assert len(told.encode()) < 2048
    assert all(char.isprintable() or char == "\n" for char in told)
    assert not shop.calls
    assert not (folder / "out").exists()
