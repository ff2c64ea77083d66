"""What `python -m mmssl_jax.prepare` says of malformed features and images, and of its outputs."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.malformed import (
    IDS,
    TEXT,
    VISUAL,
    Case,
    Content,
    assert_told,
    claims,
    npy,
    npy_header,
    npz,
    npz_of,
    parquet,
)

pl = pytest.importorskip("polars", reason="needs the extra `tables`")
pytest.importorskip("PIL", reason="needs the extra `encoders`")
pytestmark = pytest.mark.extras

IMAGES = ["--image.folder={}/images", "--image.encoder=tests.shop:file_sizes"]
AT = ["--features=v={}/v.npy@{}/ids.json"]
AS_PARQUET = ["--features=v={}/v.parquet"]
ID_LIST: dict[str, Content] = {"ids.json": '["a", "b", "c"]'}
ROWS = npy(np.ones((3, 2)))

FEATURES: dict[str, Case] = {
    "npz that is none": ({"v.npz": b"no archive"}, VISUAL, "v.npz: cannot be read"),
    "half an npz": ({"v.npz": npz(ids=IDS, features=np.ones((3, 2)))[:300]}, VISUAL, "v.npz: "),
    "npz without ids": ({"v.npz": npz(features=np.ones((3, 2)))}, VISUAL, "arrays `ids` and"),
    "npz of objects": (
        {"v.npz": npz(ids=IDS, features=np.array([[1], ["a"]], object))}, VISUAL, "v.npz: cannot",
    ),
    "npz of a shape beyond it": (
        {"v.npz": npz_of(ids=npy(IDS), features=claims("(3, 99999999999)"))}, VISUAL,
        "v.npz: cannot be read (features.npy is float32 of shape (3, 99999999999) in",
    ),
    "npz of a negative shape": (
        {"v.npz": npz_of(ids=npy(IDS), features=claims("(-3, 2)"))}, VISUAL, "v.npz: cannot be",
    ),
    "npz of code": (
        {"v.npz": npz_of(ids=npy(IDS), features=npy_header("__import__('os').abort()"))}, VISUAL,
        "v.npz: cannot be read",
    ),
    "ids of bytes": (
        {"v.npz": npz(ids=np.array([b"\xff", b"b", b"c"]), features=np.ones((3, 2)))}, VISUAL,
        "v.npz: ids are bytes that are not UTF-8",
    ),
    "ids of floats": (
        {"v.npz": npz(ids=np.ones(3), features=np.ones((3, 2)))}, VISUAL, "v.npz: ids are float64",
    ),
    "more ids than rows": (
        {"v.npz": npz(ids=IDS, features=np.ones((2, 2)))}, VISUAL, "v.npz: 3 ids for 2 rows",
    ),
    "repeated ids": (
        {"v.npz": npz(ids=np.array(["a", "b", "a"]), features=np.ones((3, 2)))}, VISUAL,
        "v.npz: item 'a' is in data rows 1 and 3",
    ),
    "texts as features": (
        {"v.npz": npz(ids=IDS, features=np.array([["x"]] * 3))}, VISUAL, "features are <U1 of shap",
    ),
    "a vector": ({"v.npz": npz(ids=IDS, features=np.ones(3))}, VISUAL, "of shape (3,), expected"),
    "no width": ({"v.npz": npz(ids=IDS, features=np.ones((3, 0)))}, VISUAL, "of shape (3, 0)"),
    "some NaN": (
        {"v.npz": npz(ids=IDS, features=np.array([[1, 1], [1, np.nan], [1, 1]]))}, VISUAL,
        "the first is of item 'b'",
    ),
    "infinite": (
        {"v.npz": npz(ids=IDS, features=np.array([[1, 1], [1, 1], [np.inf, 1]]))}, VISUAL,
        "the first is of item 'c'",
    ),
    "beyond float32": (
        {"v.npz": npz(ids=IDS, features=np.full((3, 2), 1e300))}, VISUAL, "is of item 'a'",
    ),
    "only NaN": (
        {"v.npz": npz(ids=IDS, features=np.full((3, 2), np.nan))}, VISUAL, "(no row 0, only nan 3)",
    ),
    "rows and columns exchanged": (
        {"v.npz": npz(ids=IDS, features=np.ones((3, 2**20 + 1), np.int8))}, VISUAL,
        "rows of 1,048,577 numbers",
    ),
    "npy that is none": ({"v.npy": b"x" * 99, **ID_LIST}, AT, "v.npy: cannot be read"),
    "empty npy": ({"v.npy": b"", **ID_LIST}, AT, "v.npy: cannot be read"),
    "half an npy": ({"v.npy": ROWS[:-9], **ID_LIST}, AT, "v.npy: cannot be read"),
    "npy of a shape beyond it": ({"v.npy": claims("(3, 10**15)"), **ID_LIST}, AT, "v.npy: cannot"),
    "npy of a large shape": ({"v.npy": claims("(3, 999999999)"), **ID_LIST}, AT, "v.npy: cannot"),
    "npy of a deep header": ({"v.npy": npy_header("(" * 9000), **ID_LIST}, AT, "v.npy: cannot"),
    "npy of objects": (
        {"v.npy": npy(np.array([[{}]] * 3), allow_pickle=True), **ID_LIST}, AT, "v.npy: cannot be",
    ),
    "npy without ids": ({"v.npy": ROWS}, ["--features=v={}/v.npy"], "a file of ids behind an @"),
    "a pipe as npy": ({"v.npy": os.mkfifo, **ID_LIST}, AT, "v.npy: is a pipe, expected a file"),
    "a pipe as ids": ({"v.npy": ROWS, "ids.json": os.mkfifo}, AT, "ids.json: is a pipe, expected"),
    "no ids file": ({"v.npy": ROWS}, AT, "ids.json: no such file"),
    "no JSON": ({"v.npy": ROWS, "ids.json": "[1,"}, AT, "ids.json: cannot be read as a file of"),
    "deep JSON": ({"v.npy": ROWS, "ids.json": "[" * 10**5}, AT, "ids.json: cannot be read as a fi"),
    "a JSON mapping": ({"v.npy": ROWS, "ids.json": "{}"}, AT, "ids.json: expected a JSON list of"),
    "ids of other kinds": ({"v.npy": ROWS, "ids.json": "[1, 2, null]"}, AT, "ids.json: expected a"),
    "lists of texts": (
        {"v.parquet": parquet(item_id=IDS.tolist(), v=[["x"], ["y"], ["z"]])}, AS_PARQUET,
        "v.parquet: column 'v' has type List(String), expected lists of numbers",
    ),
    "structs": (
        {"v.parquet": parquet(item_id=["a"], v=[{"x": 1}])}, AS_PARQUET, "'v' has type Struct(",
    ),
    "lists of lists": (
        {"v.parquet": parquet(item_id=["a"], v=[[[1], [2, 3]]])}, AS_PARQUET, "List(List(Int64))",
    ),
    "lists of other lengths": (
        {"v.parquet": parquet(item_id=["a", "b"], v=[[1], [2, 3]])}, AS_PARQUET, "lengths [1, 2]",
    ),
    "empty lists": (
        {"v.parquet": parquet(item_id=["a"], v=pl.Series([[]], dtype=pl.List(pl.Float32)))},
        AS_PARQUET, "lists of lengths [], expected one length",
    ),
    "several lists": (
        {"v.parquet": parquet(item_id=["a"], v=[[1]], w=[[1]])}, AS_PARQUET, "columns of lists ['v",
    ),
    "NaN in a list": (
        {"v.parquet": parquet(item_id=["a"], v=[[1.0, None]])}, AS_PARQUET, "is of item 'a'",
    ),
    "no numbers": (
        {"v.parquet": parquet(item_id=["a"], v=["x"])}, AS_PARQUET, "v.parquet: no column of numbe",
    ),
    "no id column": ({"v.parquet": parquet(v=[1.0])}, AS_PARQUET, "v.parquet: no column 'item_id'"),
    "damaged parquet": (
        {"v.parquet": parquet(item_id=["a"], v=[1.0])[:-30]}, AS_PARQUET, "v.parquet: cannot be",
    ),
    "ids with blanks": (
        {"v.npz": npz(ids=np.array(["a", "b", "c "]), features=np.eye(3))}, VISUAL,
        "v.npz: column 'ids' is 'c ' in data row 3, which has blanks around it",
    ),
    "half a character": (
        {"v.npy": ROWS, "ids.json": '["a", "b", "\\ud800"]'}, AT, "an id holds half a character",
    ),
    "ids without a size": (
        {"v.npz": npz_of(ids=claims("(999999999999,)", "<U0"), features=ROWS)}, VISUAL, "v.npz: ",
    ),
    "a modality of several lines": ({}, ["--features=a\nb={}/v.npz"], "modality 'a\\nb' cannot be"),
    "a modality of a long name": ({}, [f"--features={'m' * 300}={{}}/v.npz"], "cannot be part of"),
    "a folder as modality": ({}, ["--features=a/b={}/v.npz"], "'a/b' cannot be part of a file"),
    "no modality": ({}, ["--features=v.npz"], "features has 'v.npz', expected MODALITY=FILE"),
    # Encoders and images
    "no function": ({}, [*TEXT[:2], "--text.encoder=os:sep"], "os:sep' is '/', expected a func"),
    "another function": ({}, [*TEXT[:2], "--text.encoder=json:loads"], "json:loads failed in"),
    "no folder of images": ({}, IMAGES, "images: no such folder"),
    "a file as a folder": ({"images": b""}, IMAGES, "images: a file; expected a folder"),
    "no image that decodes": (
        {"images": Path.mkdir, "images/a.png": b"none", "images/b.gif": b"GIF89a"}, IMAGES,
        "(no file 1, unreadable 2)",
    ),
    "only a Mac's companions": (
        {"images": Path.mkdir, "images/._a.png": b"\0", "images/.DS_Store": b"\0"}, IMAGES,
        "(no file 3, unreadable 0)",
    ),
    "pipes as images": (
        {"images": Path.mkdir, "images/a.png": os.mkfifo}, IMAGES, "(no file 3, unreadable 0)",
    ),
    "two images of an item": (
        {"images": Path.mkdir, "images/a.png": b"", "images/a.JPG": b""}, IMAGES,
        "images: item 'a' has a.JPG and a.png",
    ),
    "paths that no file can have": (
        {"items.csv": f"item_id,file\na,{'x' * 999}.png\nb,\0\nc,../..\n"},
        ["--items={}/items.csv", "--image.column=file", IMAGES[1]], "(no file 3, unreadable 0)",
    ),
    # Where it is written
    "out below a file": ({}, [*VISUAL, "--out={}/log.csv/out"], "log.csv/out: cannot be written ("),
    "out is a file": ({}, [*VISUAL, "--out={}/log.csv"], "log.csv: a file, expected a new or empt"),
    "out is filled": ({}, [*VISUAL, "--out={}"], ": not empty, and nothing is overwritten"),
    "out is a link to nothing": (
        {"l": lambda path: path.symlink_to("nowhere")}, [*VISUAL, "--out={}/l"], "/l: a file, expe",
    ),
    "out is in no file system": ({}, [*VISUAL, "--out=/proc/x/out"], "/proc/x/out: cannot be wri"),
    "out has a long name": ({}, [*VISUAL, f"--out={{}}/{'x' * 300}"], "cannot be written ("),
    "no out": ({}, [*VISUAL, "--out="], "out is empty, expected a path"),
    "a cache below a file": ({}, [*TEXT, "--cache={}/log.csv/c"], "cache "),
}  # fmt: skip


@pytest.mark.parametrize("case", FEATURES.values(), ids=FEATURES)
def test_malformed_content_is_told_in_one_short_message(tmp_path, capfd, case):
    assert_told(tmp_path, capfd, case)
