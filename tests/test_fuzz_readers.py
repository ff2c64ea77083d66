"""Random datasets are read back as they were written, and random damage ends in a DatasetError."""

import json
import pickle
import pickletools
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmssl_jax.data import Dataset, DatasetError, DatasetWarning, read_dataset
from tests.small_folders import SPLITS, WRITERS, matrix, write_small

NAMES = tuple(SPLITS)
QUICK = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
FILES = {
    "train.json": "hkuds",
    "item_ids.json": "hkuds",
    "image_feat.npy": "hkuds",
    "image_mask.npy": "hkuds",
    "toys.inter": "mmrec",
    "trnMat.pkl": "diffmm",
}


def read(folder: Path) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DatasetWarning)
        return read_dataset(folder)


# Round trips


@st.composite
def labels(draw) -> np.ndarray:
    """[U, I]: 0 for no interaction, else 1 + the split; one to train on, and one left over."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(2, 7)))
    found = draw(arrays.arrays(np.int8, shape, elements=st.integers(0, 3)))
    found[-1, -1] = 1  # the last user and item are named, from which mmrec tells their number
    found[:, 0] = np.where((found == 1).all(axis=1), 0, found[:, 0])
    return found


@st.composite
def features(draw, n_items: int) -> np.ndarray:
    """[I, F] of any float type, byte order and memory order."""
    dtype = np.dtype(draw(st.sampled_from(["<f2", "<f4", "<f8", ">f4", ">f8"])))
    shape = (n_items, draw(st.integers(1, 4)))
    finite = st.floats(-60_000, 60_000, width=16)
    rows = draw(arrays.arrays(dtype, shape, elements=finite))
    return np.asarray(rows, order=draw(st.sampled_from("CF")))


def raw_ids(size: int) -> st.SearchStrategy[list[str]]:
    letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    return st.lists(st.text(letters, min_size=1), min_size=size, max_size=size, unique=True)


def pairs_of(labelled: np.ndarray) -> dict[str, list[tuple[int, int]]]:
    return {
        name: [tuple(pair) for pair in np.argwhere(labelled == 1 + k).tolist()]
        for k, name in enumerate(NAMES)
    }


@pytest.mark.parametrize("layout", WRITERS)
@given(data=st.data())
@QUICK
def test_what_is_written_is_read_back(layout, data):
    labelled = data.draw(labels())
    n_users, n_items = labelled.shape
    pairs = pairs_of(labelled)
    rows = data.draw(features(n_items))
    present = data.draw(arrays.arrays(bool, n_items).filter(np.any))
    users, items = data.draw(raw_ids(n_users)), data.draw(raw_ids(n_items))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        WRITERS[layout](folder, pairs, labelled.shape)
        np.save(folder / "image_feat.npy", rows)
        np.save(folder / "image_mask.npy", present)
        (folder / "user_ids.json").write_text(json.dumps(users), encoding="utf-8")
        (folder / "item_ids.json").write_text(json.dumps(items, ensure_ascii=False), "utf-8")
        found = read(folder)
    assert {s: [tuple(pair) for pair in e.tolist()] for s, e in found.splits.items()} == pairs
    np.testing.assert_array_equal(found.features["image"], np.where(present[:, None], rows, 0))
    assert found.features["image"].dtype == np.float32
    np.testing.assert_array_equal(found.presence.get("image", np.ones(n_items, bool)), present)
    assert (found.user_ids.tolist(), found.item_ids.tolist()) == (users, items)


# Damage


Damage = Callable[[bytes], bytes]


@st.composite
def damages(draw) -> Damage:
    """A few flips, cuts, insertions and repeats at random places."""
    kinds = st.sampled_from(["flip", "cut", "insert", "repeat", "remove"])
    edits = draw(
        st.lists(
            st.tuples(kinds, st.floats(0, 1), st.binary(min_size=1, max_size=8)),
            min_size=1,
            max_size=4,
        )
    )

    def apply(content: bytes) -> bytes:
        for kind, share, new in edits:
            at = int(share * len(content))
            before, after = content[:at], content[at:]
            content = {
                "flip": before + bytes(a ^ b for a, b in zip(after[:1], new, strict=False)),
                "cut": before,
                "insert": before + new + after,
                "repeat": before + after[: len(new)] + after,
                "remove": before + after[len(new) :],
            }[kind]
            content += after[1:] if kind == "flip" else b""
        return content

    return apply


def read_or_refuse(file: str, content: bytes) -> None:
    """A folder with this content of one file gives a whole Dataset or a DatasetError."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_small(folder, FILES[file])
        (folder / file).write_bytes(content)
        try:
            found = read(folder)
        except DatasetError as error:
            message = str(error).replace(name, "")
            assert len(message) <= 2000
            assert message.isprintable()
            return
        found.check()
        assert len(found.fingerprint()) == 64
        assert found.summary()


def content_of(file: str) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        write_small(Path(name), FILES[file])
        return (Path(name) / file).read_bytes()


@pytest.mark.parametrize("file", FILES)
@given(damage=damages())
@QUICK
def test_damaged_files_are_read_or_refused(file, damage):
    read_or_refuse(file, damage(content_of(file)))


@pytest.mark.parametrize("file", FILES)
@given(content=st.binary(max_size=60))
@settings(QUICK, max_examples=15)
def test_random_bytes_are_read_or_refused(file, content):
    read_or_refuse(file, content)


# What is well formed for the parser below, and wrong for the reader above it

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=2), parts),
    max_leaves=8,
)
users = st.integers(0, 9).map(str) | st.text(max_size=3)


@pytest.mark.parametrize("file", ["train.json", "item_ids.json"])
@given(content=json_values | st.dictionaries(users, st.lists(st.integers(-1, 5)) | json_values))
@QUICK
def test_any_json_is_read_or_refused(file, content):
    read_or_refuse(file, json.dumps(content).encode("utf-8", "surrogatepass"))


cells = st.integers(-1, 6).map(str) | st.sampled_from(["", '"', '"0"', "0.0", "\r", "\u2028", "e9"])


@given(rows=st.lists(st.lists(cells, min_size=3, max_size=4), max_size=5))
@example(rows=[["0", "1", "0"], ["0", "2", "0"]])
@QUICK
def test_any_table_is_read_or_refused(rows):
    lines = ["userID\titemID\tx_label", *("\t".join(row) for row in rows)]
    read_or_refuse("toys.inter", "\n".join(lines).encode())


numbers = st.integers(-2, 6) | st.integers(-(2**70), 2**70)
header_fields = st.fixed_dictionaries(
    {
        "descr": st.sampled_from(["<f4", ">f8", "|O", "|b1", "<U9", "f4,f4", "V0", [("a", "<f4")]]),
        "fortran_order": st.booleans() | st.none(),
        "shape": st.lists(numbers, max_size=3).map(tuple) | st.just((5, 3)) | st.just((5,)),
    }
)


@pytest.mark.parametrize("file", ["image_feat.npy", "image_mask.npy"])
@given(fields=header_fields, size=st.integers(0, 130))
@QUICK
def test_any_header_is_read_or_refused(file, fields, size):
    line = repr(fields).encode() + b"\n"
    start = b"\x93NUMPY\x01\0" + len(line).to_bytes(2, "little")
    read_or_refuse(file, start + line + b"\0" * size)


def instructions() -> list[bytes]:
    """The instructions of a matrix's pickle, one by one, and some that it does not have."""
    content = pickle.dumps(matrix(SPLITS["train"]), protocol=4)
    places = [place for _, _, place in pickletools.genops(content)]
    parts = [content[a:b] for a, b in zip(places, [*places[1:], None], strict=True)]
    return [*parts, b"(", b"0", b"2", b"]", b"\x8f", b"Rb", b"cnumpy\ndtype\n", b"\x85", b"h\0"]


PARTS = instructions()


@given(
    keep=st.integers(0, 160), swaps=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)))
)
@settings(QUICK, max_examples=60)
def test_any_program_of_a_pickle_is_read_or_refused(keep, swaps):
    program = PARTS[:keep] if keep % 2 else PARTS[:]
    for at, other in swaps:
        program.insert(at % (len(program) + 1), PARTS[other % len(PARTS)])
    read_or_refuse("trnMat.pkl", b"".join(program) + b".")
