"""What dataset folders may hold beside their files, and how they are found, named and numbered."""

import json
import os
import tracemalloc

import numpy as np
import pytest

from mmssl_jax.data import DatasetError, read_dataset
from mmssl_jax.data.pickles import PickleFault, recorded
from tests.small_folders import SHAPE, SPLITS, WRITERS, write_small

LAYOUTS = list(WRITERS)


@pytest.fixture
def folder(tmp_path):
    write_small(tmp_path, "hkuds")
    return tmp_path


def refused(folder, *parts: str, **options) -> None:
    with pytest.raises(DatasetError) as error:
        read_dataset(folder, **options)
    for part in parts:
        assert part in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hidden_files_do_not_count(tmp_path, layout):
    """As a Mac leaves them beside every file of a folder that it copied."""
    write_small(tmp_path, layout)
    before = read_dataset(tmp_path).fingerprint()
    for name in os.listdir(tmp_path):
        (tmp_path / f"._{name}").write_bytes(b"\0\5\x16\7")
    for name in (".DS_Store", "._train.json", "._other.inter", "._trnMat.pkl", "._text_mask.npy"):
        (tmp_path / name).write_bytes(b"\0\0\0\1Bud1")
    assert read_dataset(tmp_path).fingerprint() == before


def test_a_folder_of_hidden_files_is_empty(tmp_path):
    (tmp_path / "._visual_feat.npy").write_bytes(b"\0\5\x16\7")
    refused(tmp_path, "no layout matches", "found an empty folder")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "expected"),
        ("a\0b", "a\\x00b: cannot be read (embedded null byte)"),
        ("x" * 300, "cannot be read (File name too long)"),
        ("\udcff", "nothing there"),
        ("new\x1b[31mline", "new\\x1b[31mline: nothing there"),
    ],
)
def test_paths_that_cannot_be_folders(tmp_path, monkeypatch, path, says):
    monkeypatch.chdir(tmp_path)
    refused(path, says)


def test_the_home_folder_may_be_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert read_dataset(f"~/{folder.name}").n_items == SHAPE[1]


@pytest.mark.parametrize(
    "name", [b"a\nb_feat.npy", b"\xff_feat.npy", b"\x1b[31m_mask.npy", b"a\nb.inter"]
)
def test_file_names_that_cannot_be_printed(folder, name):
    with open(os.fsencode(folder) + b"/" + name, "wb"):
        pass
    layout = "mmrec" if name.endswith(b".inter") else "hkuds"
    refused(folder, "holds what cannot be printed; rename it", layout=layout)


def test_a_modality_asked_for_is_shown_short(folder):
    refused(folder, "expected some of audio, image", modalities=["x" * 10**6])


def test_an_error_is_short_whatever_it_shows():
    message = str(DatasetError("\x1b" * 10**6))
    assert len(message) <= 2000
    assert message.isprintable()


@pytest.mark.parametrize("end", [b"\r", b"\r\n", b"\n\n\n"])
def test_line_ends_of_any_system(tmp_path, end):
    write_small(tmp_path, "mmrec")
    before = read_dataset(tmp_path).fingerprint()
    table = tmp_path / "toys.inter"
    text = table.read_bytes()
    table.write_bytes(text.replace(b"\n", end) if b"\r" in end else text.rstrip() + end)
    assert read_dataset(tmp_path).fingerprint() == before


def test_quoted_texts_in_other_columns_are_read(tmp_path):
    write_small(tmp_path, "mmrec")
    table = tmp_path / "toys.inter"
    before = read_dataset(tmp_path).fingerprint()
    table.write_text(table.read_text().replace("5.0", '"so, so"', 1).replace("5.0", '5" nail', 1))
    assert read_dataset(tmp_path).fingerprint() == before


def test_a_repeated_key_among_many_is_found_in_time(folder):
    lists = ",".join(f'"{user}":[1]' for user in range(100_000))
    (folder / "train.json").write_text(f'{{{lists},"99999":[2]}}')
    refused(folder, "train.json: the key '99999' appears twice")


def test_ids_in_proportion_are_read_however_large(folder):
    """A million users may be named by few, and more by one in a hundred."""
    (folder / "user_ids.json").unlink()
    (folder / "test.json").write_text('{"999999": [0]}')
    assert read_dataset(folder).n_users == 1_000_000
    (folder / "test.json").write_text('{"1000000": [0]}')
    refused(folder, "test.json: user 1000000 makes 1,000,001 users, of which the data names 5;")
    many = {str(user): [] for user in range(10_010)}
    (folder / "val.json").write_text(json.dumps(many))
    assert read_dataset(folder).n_users == 1_000_001


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", [0, 1])
def test_far_ids_without_features(tmp_path, layout, place):
    shape = [4, 5]
    shape[place] = 20_000_001
    far = (20_000_000, 0) if place == 0 else (0, 20_000_000)
    pairs = dict(SPLITS, test=[far])
    WRITERS[layout](tmp_path, pairs, (4, 5) if layout == "hkuds" else tuple(shape))
    kind = ("user", "item")[place]
    refused(tmp_path, f"{kind} 20000000 makes 20,000,001 {kind}s", needs_features=False)


def test_a_pickle_takes_no_memory_on_its_word():
    tracemalloc.start()
    try:
        assert recorded(b"\x80\x02Nr\xff\xff\xff\x7f.", ()) is None
        with pytest.raises(PickleFault):
            recorded(b"\x80\x04\x8e" + b"\xff" * 4 + b"\0" * 4 + b".", ())
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_an_array_takes_no_memory_on_its_word(folder):
    with open(folder / "audio_feat.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**3)}
        np.lib.format.write_array_header_1_0(file, header)
    tracemalloc.start()
    try:
        refused(folder, "audio_feat.npy: not a usable .npy file (truncated)")
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()
