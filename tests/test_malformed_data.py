"""Malformed dataset folders: each ends in one short DatasetError that names the file."""

import io
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from mmssl_jax.data import DatasetError, read_dataset
from tests.breaks import (
    Break,
    array,
    cut,
    edit,
    header,
    instead,
    link,
    linked_pipe,
    objects,
    pickled,
    put,
    shape,
    with_value,
)
from tests.small_folders import SPLITS, matrix, write_small


class Case(NamedTuple):
    """A good folder of a layout, `file` of which `breaks` spoils, and what is said of it."""

    layout: str
    file: str
    breaks: Break
    says: str


# A tuple of 2 ** 40 leaves in 250 bytes, since its parts are shared.
SHARED = b"K\x01" + b"".join(
    b"q" + bytes([k]) + (b"h" + bytes([k])) * 2 + b"\x87" for k in range(10, 50)
)
MATRIX = b"\x80\x02cscipy.sparse.coo\ncoo_matrix\n)\x81}"
ZIP = io.BytesIO()
np.savez(ZIP, rows=np.ones((5, 2)))

# Of every file, in whatever layout
KINDS: dict[str, tuple[Break, str]] = {
    "pipe": (instead(os.mkfifo), "is a pipe, not a file"),
    "link to a pipe": (instead(linked_pipe), "is a pipe, not a file"),
    "link to a device": (link("/dev/zero"), "is a device, not a file"),
    "folder": (instead(Path.mkdir), "is a folder, not a file"),
    "link to nothing": (link("gone"), "cannot be read (No such file"),
    "link to itself": (instead(lambda p: p.symlink_to(p.name)), "cannot be read (Too many"),
    "file that fails": (link("/proc/self/mem"), "cannot be read"),
}
EACH_FILE = {
    "hkuds": ("train.json", "test.json", "image_feat.npy", "image_mask.npy", "item_ids.json"),
    "mmrec": ("toys.inter",),
    "diffmm": ("valMat.pkl",),
}

NPY: dict[str, tuple[Break, str]] = {
    "empty": (put(b""), "the file is empty"),
    "magic cut": (cut(4), "not a usable .npy file"),
    "header cut": (cut(40), "not a usable .npy file"),
    "one value short": (cut(-4), "(truncated): shape (5, 2) of float32 needs 40 bytes"),
    "data behind": (lambda p: p.write_bytes(p.read_bytes() + b"\0"), "more in it than one array"),
    "text": (put("1.0 2.0\n3.0 4.0\n"), "not a usable .npy file"),
    "npz": (put(ZIP.getvalue()), "not a usable .npy file"),
    "version 9": (edit(b"NUMPY\x01", b"NUMPY\x09"), "not a usable .npy file"),
    "version 3": (header("{}", version=(3, 0)), "version (3, 0)"),
    "open bracket": (header("{'descr': '<f4', ("), "not a usable .npy file"),
    "no dict": (header("[1, 2]"), "not a usable .npy file"),
    "keys missing": (header("{'shape': (5, 2)}"), "not a usable .npy file"),
    "code": (header("__import__('os').mkdir('ran')"), "not a usable .npy file"),
    "deep": (header("(" * 5000), "not a usable .npy file"),
    "long header": (header(" " * 60_000), "not a usable .npy file"),
    "endless header": (put(b"\x93NUMPY\x02\0\xff\xff\xff\xff{"), "not a usable .npy file"),
    "NUL in header": (header("{'descr': '\0'}"), "not a usable .npy file"),
    "terabytes": (shape(f"({10**9}, 1000)"), "(truncated): shape (1000000000, 1000)"),
    "overflow": (shape(f"({10**30}, 4)"), "(truncated)"),
    "overflow to 0": (shape(f"({2**32}, {2**32})"), "(truncated)"),
    "rows of nothing": (shape(f"({10**12}, 0)"), "expected 2-d [items, width], neither 0"),
    "negative": (shape("(-5, -2)", data=b"\0" * 40), "shape (-5, -2)"),
    "true": (shape("(True, 10)", data=b"\0" * 40), "shape (True, 10)"),
    "shape no tuple": (shape("5"), "not a usable .npy file"),
    "0-d": (array(1.0), "an array of shape (), expected 2-d"),
    "1-d": (array([1.0] * 5), "an array of shape (5,), expected 2-d"),
    "70-d": (shape(f"({'1, ' * 70})", data=b"\0" * 4), "expected 2-d"),
    "objects": (objects, "dtype object, expected float16"),
    "structured": (array([(1.0,)] * 5, dtype=[("a", "f4")]), "expected float16, float32"),
    "many fields": (shape("(5, 2)", str([(f"c{k}", "<f4") for k in range(400)])), "expected float"),
    "subarray": (shape("(5,)", "('<f4', (2,))", b"\0" * 40), "expected float16, float32"),
    "wide text": (shape("(5, 2)", "'<U2000000000'"), "not a usable .npy file"),
    "no type": (shape("(5, 2)", "'nonsense'"), "not a usable .npy file"),
    "complex": (array([[1j, 2]] * 5), "dtype complex128, expected float16"),
    "whole numbers": (array([[1, 2]] * 5), "dtype int64, expected float16"),
    "dates": (array([["2020-01-01"]] * 5, dtype="M8[D]"), "expected float16"),
    "NaN": (with_value(2, 1, np.nan), "the first in row 2, column 1"),
    "infinite": (with_value(4, 0, -np.inf), "the first in row 4, column 0"),
    "beyond float32": (with_value(0, 1, 1e39), "infinite as float32, the first in row 0, column 1"),
    "too few rows": (array([[1.0]] * 4), "expected 4, one for each of the rows of"),
    "too many rows": (array([[1.0]] * 6), "expected 6, one for each of the rows of"),
}

MASKS: dict[str, tuple[Break, str]] = {
    "empty": (put(b""), "not a usable .npy file"),
    "open bracket": (header("{'descr': '|b1', ("), "not a usable .npy file"),
    "terabytes": (shape(f"({10**13},)", "'|b1'"), "expected bool [5]"),
    "truncated": (shape("(5,)", "'|b1'", b"\1\1"), "(truncated)"),
    "numbers": (array([1, 1, 1, 0, 0]), "int64 array of shape (5,), expected bool [5]"),
    "2-d": (array([[True]] * 5), "bool array of shape (5, 1)"),
    "short": (array([True] * 4), "bool array of shape (4,)"),
    "none": (array([False] * 5), "no item has the modality"),
}

IDS: dict[str, tuple[Break, str]] = {
    "empty": (put(""), "malformed JSON (the file is empty)"),
    "object": (put('{"a": 1}'), "the top level is a JSON dict, expected a list"),
    "numbers": (put("[0, 1, 2, 3, 4]"), "entry 0 is 0, expected a raw id"),
    "short": (put('["a", "b"]'), "2 ids, expected 5"),
    "repeated": (put('["a", "b", "c", "d", "b"]'), "'b' is entry 1 and entry 4"),
    "empty text": (put('["a", "b", "c", "d", ""]'), "entry 4 is ''"),
    "NUL": (put('["a", "b", "c", "d", "e\\u0000"]'), "without NUL"),
    "half a character": (put('["a", "b", "c", "d", "\\ud800"]'), "half characters"),
    "a megabyte": (put(json.dumps(["a", "b", "c", "d", "e" * 10**6])), "at most 500 characters"),
    "nested": (put('["a", "b", "c", "d", [["e"]]]'), "entry 4 is [['e']]"),
    "UTF-16": (put('["a"]'.encode("utf-16")), "not UTF-8 but UTF-16"),
    "deep": (put("[" * 200_000), "nested too deeply"),
}

JSON: dict[str, tuple[Break, str]] = {
    "empty": (put(""), "malformed JSON (the file is empty)"),
    "blank": (put(" \n "), "malformed JSON (the file is empty)"),
    "truncated": (cut(-3), "malformed JSON"),
    "two values": (put('{"0": [1]}{"1": [2]}'), "malformed JSON (Extra data"),
    "lines": (put('{"0": [1]}\n{"1": [2]}\n'), "malformed JSON (Extra data: line 2"),
    "comment": (put('{"0": [1]} // users'), "malformed JSON"),
    "latin-1": (put(b'{"0": [1],\n "\xe9": [2]}'), "not UTF-8, byte 0xe9 in line 2"),
    "UTF-16": (put('{"0": [1]}'.encode("utf-16")), "not UTF-8 but UTF-16"),
    "UTF-32": (put('{"0": [1]}'.encode("utf-32")), "not UTF-8 but UTF-32"),
    "UTF-16 unmarked": (put('{"0": [1]}'.encode("utf-16-le")), "a NUL byte in line 1"),
    "binary": (put(b"\x80\x04\x95\x00"), "expected UTF-8 text"),
    "deep list": (put('{"0": ' + "[" * 200_000), "nested too deeply"),
    "deep object": (put('{"0":' * 100_000), "nested too deeply"),
    "list": (put("[[0, 1]]"), "the top level is a JSON list"),
    "number": (put("7"), "the top level is a JSON int"),
    "repeated": (put('{"0": [1], "0": [2]}'), "the key '0' appears twice"),
    "long repeated": (put(f'{{"{"k" * 9999}": [1], "{"k" * 9999}": [2]}}'), "appears twice"),
    "raw user": (put('{"A1B2": [1]}'), "user id 'A1B2', expected a whole number"),
    "padded user": (put('{"01": [1]}'), "user id '01'"),
    "huge user": (put(json.dumps({"9" * 5000: [1]})), "expected a whole number from 0"),
    "far user": (put('{"0": [1], "20000000": [2]}'), "user 20000000 makes 20,000,001 users"),
    "object of items": (
        put(json.dumps({"0": {str(k): k for k in range(9999)}})),
        "a list of item",
    ),
    "text of items": (put('{"0": "1 2 3"}'), "user 0 has '1 2 3', expected a list"),
    "null": (put('{"0": null}'), "user 0 has null, expected a list"),
    "fraction": (put('{"0": [1.5]}'), "user 0 has item 1.5"),
    "infinite": (put('{"0": [1e999]}'), "user 0 has item Infinity"),
    "minus infinite": (put('{"0": [-Infinity]}'), "user 0 has item -Infinity"),
    "NaN": (put('{"0": [NaN]}'), "user 0 has item NaN"),
    "4,000 digits": (put(f'{{"0": [{"9" * 4000}]}}'), "expected a whole number"),
    "5,000 digits": (put(f'{{"0": [1],\n"1": [{"9" * 5000}]}}'), "5,000 digits in line 2"),
    "negative": (put('{"0": [-1]}'), "user 0 has item -1"),
    "true": (put('{"0": [true]}'), "user 0 has item true"),
    "control characters": (put('{"0": ["\\u001b[31m\\n"]}'), "\\x1b[31m\\n"),
    "item beyond": (put('{"0": [5]}'), "user 0 has item 5, expected item ids 0 to 4"),
    "no pairs": (put("{}"), "no training interactions"),
    "pair of test": (put('{"2": [1]}'), "(user, item) pairs are in both"),
    "all items": (put('{"1": [0, 1, 2, 3, 4]}'), "user 1 has all 5 items"),
}

TABLE: dict[str, tuple[Break, str]] = {
    "empty": (put(""), "line 1 names the columns ''"),
    "no header": (put("0\t1\t5.0\t0\n"), "expected one 'userID' among them"),
    "blank first": (lambda p: p.write_bytes(b"\n" + p.read_bytes()), "line 1 names the columns ''"),
    "column missing": (edit(b"\tx_label", b"\tlabel"), "expected one 'x_label'"),
    "column twice": (edit(b"rating", b"userID"), "expected one 'userID'"),
    "commas": (lambda p: p.write_bytes(p.read_bytes().replace(b"\t", b",")), "separated by commas"),
    "semicolons": (lambda p: p.write_bytes(p.read_bytes().replace(b"\t", b";")), "by semicolons"),
    "quoted header": (edit(b"userID", b'"userID"'), "expected one 'userID'"),
    "quoted id": (edit(b"0\t3\t", b'"0"\t3\t'), "line 3, userID is '\"0\"'"),
    "open quote": (edit(b"\t3\t5.0", b'\t3\t"5.0'), "line 3 has the field '\"5.0'"),
    "line end in quotes": (edit(b"\t3\t5.0", b'\t3\t"5.0\n6"'), "line 3 has 3 fields"),
    "row short": (edit(b"0\t3\t5.0\t0", b"0\t3\t5.0"), "line 3 has 3 fields, expected 4"),
    "row long": (edit(b"0\t3\t5.0\t0", b"0\t3\t5.0\t0\t"), "line 3 has 5 fields, expected 4"),
    "blank line": (edit(b"0\t3\t", b"\n0\t3\t"), "line 3 is blank"),
    "truncated": (cut(-4), "fields, expected 4"),
    "CR inside": (edit(b"0\t3\t5.0", b"0\t3\t5\r0"), "line 3 has 3 fields"),
    "NUL": (edit(b"0\t3\t5.0", b"0\t3\t5\x000"), "a NUL byte in line 3"),
    "latin-1": (edit(b"0\t3\t5.0", b"0\t3\t\xe9"), "not UTF-8, byte 0xe9 in line 3"),
    "UTF-16": (put("userID\titemID\tx_label\n".encode("utf-16")), "not UTF-8 but UTF-16"),
    "raw id": (edit(b"0\t3\t", b"A1\t3\t"), "line 3, userID is 'A1'"),
    "float id": (edit(b"0\t3\t", b"0.0\t3\t"), "line 3, userID is '0.0'"),
    "padded id": (edit(b"0\t3\t", b"00\t3\t"), "line 3, userID is '00'"),
    "blank id": (edit(b"0\t3\t", b"0\t\t"), "line 3, itemID is ''"),
    "space": (edit(b"0\t3\t", b"0\t 3\t"), "line 3, itemID is ' 3'"),
    "other digits": (edit(b"0\t3\t", "0\t\u0663\t".encode()), "line 3, itemID is"),
    "5,000 digits": (edit(b"0\t3\t", b"0\t" + b"9" * 5000 + b"\t"), "expected a whole number"),
    "far user": (edit(b"0\t3\t", b"30000000\t3\t"), "line 3: user 30000000 makes 30,000,001"),
    "label 3": (edit(b"0\t3\t5.0\t0", b"0\t3\t5.0\t3"), "line 3, x_label is 3"),
    "long names": (put("\t".join(f"column{k}" for k in range(9999))), "expected one 'userID'"),
    "one long line": (put("x" * 10**6), "expected one 'userID'"),
}

PICKLES: dict[str, tuple[Break, str]] = {
    "empty": (put(b""), "malformed pickle"),
    "truncated": (cut(200), "malformed pickle"),
    "text": (put("not a pickle"), "malformed pickle"),
    "no end": (cut(-1), "malformed pickle"),
    "code": (put(b"cos\nmkdir\n(S'ran'\ntR."), "asks for 'os.mkdir', which was refused"),
    "other module": (pickled(np.float64(1)), "which was refused and not run"),
    "CSR": (pickled(matrix(SPLITS["train"]).tocsr()), "csr_matrix', which was refused"),
    "protocol 0": (pickled(matrix(SPLITS["train"]), 0), "protocol 3 or 4"),
    "protocol 2": (pickled(matrix(SPLITS["train"]), 2), "'_codecs.encode', which was refused"),
    "protocol 5": (pickled(matrix(SPLITS["train"]), 5), "protocol 3 or 4"),
    "long name": (put(b"c" + b"m" * 10**5 + b"\nname\n."), "asks for 'm"),
    "dict": (pickled({"a": 1}), "holds dict, expected a COO matrix"),
    "list": (pickled([1]), "the instruction EMPTY_LIST"),
    "shared shape": (put(MATRIX + b"U\x06_shape" + SHARED + b"sb."), "matrix shape (("),
    "shared key": (put(MATRIX + SHARED + b"K\x01sb."), "keys of text"),
    "far memo": (put(b"\x80\x02Nr\xff\xff\xff\x7f."), "holds NoneType"),
    "huge bytes": (put(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f."), "malformed pickle"),
    "endless": (put(b"\x80\x02" + b"N" * 10**6 + b"."), "more than 1000 instructions"),
    "empty stack": (put(b"\x80\x02."), "malformed pickle"),
    "no mark": (put(b"\x80\x02Nt."), "a mark is missing"),
    "state of a class": (put(b"\x80\x02cnumpy\nndarray\n}b."), "a state for Name"),
    "call of a number": (put(b"\x80\x02K\x01)R."), "a call of int"),
    "no state": (put(MATRIX[:-1] + b"."), "expected a COO matrix"),
    "no rows": (pickled(matrix([], coords=None, row=None)), "coords is not a pair"),
    "far shape": (pickled(matrix([], _shape=(10**9, 5))), "matrix shape (1000000000, 5)"),
    "negative shape": (pickled(matrix([], _shape=(-1, 5))), "matrix shape (-1, 5)"),
    "other shape": (pickled(matrix([(0, 1)], (4, 6))), "trnMat.pkl is 4 x 6"),
    "no shape": (pickled(matrix([], _shape=None)), "matrix shape None"),
    "short values": (pickled(matrix([(0, 1)], data=np.ones(2))), "1 columns and 2 values"),
    "objects": (pickled(matrix([(0, 1)], data=np.array([None]))), "malformed pickle"),
    "2-d values": (pickled(matrix([(0, 1)], data=np.ones((1, 1)))), "data has shape (1, 1)"),
    "text values": (pickled(matrix([(0, 1)], data=np.array(["1"]))), "data has dtype 'U1'"),
    "NaN": (pickled(matrix([(0, 1)], data=np.array([np.nan]))), "entry 0 has value NaN"),
    "beyond": (pickled(matrix([(0, 1)], coords=(np.array([9]), np.array([1])))), "row 9, expected"),
    "fractions": (pickled(matrix([(0, 1)], coords=(np.ones(1), np.ones(1)))), "row ids are float"),
    "no pairs": (pickled(matrix([])), "no training interactions"),
}

TABLES: tuple[tuple[str, str, dict[str, tuple[Break, str]]], ...] = (
    ("hkuds", "audio_feat.npy", NPY),
    ("hkuds", "image_mask.npy", MASKS),
    ("hkuds", "item_ids.json", IDS),
    ("hkuds", "train.json", JSON),
    ("mmrec", "toys.inter", TABLE),
    ("diffmm", "trnMat.pkl", PICKLES),
    *((layout, file, KINDS) for layout, files in EACH_FILE.items() for file in files),
)
CASES = {
    f"{file}, {name}": Case(layout, file, breaks, says)
    for layout, file, table in TABLES
    for name, (breaks, says) in table.items()
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_malformed_data_ends_in_one_short_message(tmp_path, case):
    write_small(tmp_path, case.layout)
    read_dataset(tmp_path)
    case.breaks(tmp_path / case.file)
    with pytest.raises(DatasetError) as error:
        read_dataset(tmp_path, case.layout)
    message = str(error.value)
    assert case.says in message
    assert case.file in message
    assert len(message.encode()) < 2000
    assert message.isprintable()
    assert not (tmp_path / "ran").exists()


def test_there_are_as_many_cases_as_are_promised():
    assert len(CASES) >= 90
