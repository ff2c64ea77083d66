"""The three public layouts: what they read, what they refuse and what they say about it."""

import json
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from mmssl_jax.data import DatasetError, DatasetWarning, diffmm, read_dataset
from tests.problems import tiny_dataset, write_folder

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("MMSSL_DATA", ROOT.parent / "shared" / "data"))
SPLITS = {"train": [(0, 1), (0, 3), (2, 0)], "validation": [(0, 2)], "test": [(2, 1), (3, 2)]}
SHAPE = (4, 5)


def shared(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set MMSSL_DATA to the folder with the real datasets")
    return folder


def write_features(folder: Path, rows: int = SHAPE[1], dtype: str = "float32") -> None:
    np.save(folder / "image_feat.npy", np.arange(rows * 3).reshape(rows, 3).astype(dtype))
    np.save(folder / "audio_feat.npy", np.ones((rows, 2), dtype))


@pytest.fixture
def hkuds(tmp_path):
    for name, pairs in zip(("train", "val", "test"), SPLITS.values(), strict=True):
        lists = {str(u): [i for v, i in pairs if v == u] for u in range(SHAPE[0])}
        (tmp_path / f"{name}.json").write_text(json.dumps(lists))
    (tmp_path / "train_mat").write_bytes(b"never opened")
    write_features(tmp_path)
    return tmp_path


@pytest.fixture
def mmrec(tmp_path):
    lines = ["userID\titemID\trating\tx_label"]
    for label, pairs in enumerate(SPLITS.values()):
        lines += [f"{user}\t{item}\t5.0\t{label}" for user, item in pairs]
    (tmp_path / "toys.inter").write_text("\n".join(lines) + "\n")
    write_features(tmp_path)
    return tmp_path


class Pickles:
    """Writes COO matrices as SciPy would, under a module name of any SciPy."""

    def __init__(self, monkeypatch, module: str):
        parts = module.split(".")
        for k in range(len(parts)):
            name = ".".join(parts[: k + 1])
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        self.coo_matrix = type("coo_matrix", (), {"__module__": module})
        sys.modules[module].coo_matrix = self.coo_matrix

    def matrix(self, pairs, shape=SHAPE, values=None, coords=False, dtype=np.int32):
        made = self.coo_matrix()
        rows, columns = np.array(pairs, dtype).reshape(-1, 2).T.copy()
        made.__dict__["_shape"] = shape
        made.maxprint = 50
        if coords:
            made.coords = (rows, columns)
        else:
            made.row, made.col = rows, columns
        made.data = np.ones(len(rows)) if values is None else np.array(values)
        return made

    def write(self, folder: Path, protocol: int = 3, **options) -> None:
        for file, pairs in zip(diffmm.FILES, SPLITS.values(), strict=True):
            content = pickle.dumps(self.matrix(pairs, **options), protocol=protocol)
            (folder / file).write_bytes(content)


@pytest.fixture
def old_scipy(monkeypatch):
    return Pickles(monkeypatch, "scipy.sparse.coo")


@pytest.fixture
def diffmm_folder(tmp_path, old_scipy):
    old_scipy.write(tmp_path)
    write_features(tmp_path)
    return tmp_path


def refused(folder: Path, *parts: str, **options) -> None:
    with pytest.raises(DatasetError) as error:
        read_dataset(folder, **options)
    for part in parts:
        assert part in str(error.value)


def assert_is_the_example(data) -> None:
    found = {name: [tuple(pair) for pair in edges] for name, edges in data.splits.items()}
    assert found == SPLITS
    assert (data.n_users, data.n_items, data.modalities) == (*SHAPE, ("audio", "image"))
    assert {x.dtype for x in data.features.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(data.features["image"], np.arange(15).reshape(5, 3))
    np.testing.assert_array_equal(data.user_ids, np.arange(SHAPE[0]))
    np.testing.assert_array_equal(data.item_ids, np.arange(SHAPE[1]))


# Any layout


@pytest.mark.parametrize("layout", ["hkuds", "mmrec", "diffmm_folder"])
def test_each_layout_is_found_and_read(layout, request):
    folder = request.getfixturevalue(layout)
    data = read_dataset(folder)
    assert_is_the_example(data)
    assert (data.name, data.source) == (folder.name, str(folder))
    again = read_dataset(folder, layout=layout.removesuffix("_folder"))
    assert data.fingerprint() == again.fingerprint()


def test_no_folder(tmp_path):
    refused(tmp_path / "gone", "gone: nothing there, expected a folder")


def test_a_file_is_no_folder(hkuds):
    refused(hkuds / "train.json", "train.json: a file there, expected a folder")


def test_unknown_layout(hkuds):
    refused(hkuds, "layout 'csv', expected one of auto, hkuds, diffmm, mmrec", layout="csv")


def test_no_layout_matches(tmp_path):
    write_features(tmp_path)
    refused(tmp_path, "no layout matches", "found audio_feat.npy, image_feat.npy", "trnMat.pkl")


def test_several_layouts_match(hkuds):
    (hkuds / "toys.inter").write_text("")
    refused(
        hkuds, "several layouts", "hkuds: test.json, train.json", "mmrec: toys.inter", "layout="
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_feature_types(hkuds, dtype):
    write_features(hkuds, dtype=dtype)
    assert_is_the_example(read_dataset(hkuds))


@pytest.mark.parametrize("dtype", ["complex64", "int32", "<U4", "bool"])
def test_feature_types_that_are_refused(hkuds, dtype):
    np.save(hkuds / "image_feat.npy", np.ones((5, 2)).astype(dtype))
    refused(hkuds, "image_feat.npy: dtype", str(np.dtype(dtype)), "expected float16, float32")


def test_float16_features_are_cast_before_they_are_summed(hkuds):
    np.save(hkuds / "image_feat.npy", np.full((5, 4), 6e4, np.float16))
    rows = read_dataset(hkuds).features["image"]
    assert np.isfinite(rows.sum(axis=1)).all()


def test_float64_features_that_overflow_float32(hkuds):
    rows = np.ones((5, 2))
    rows[2, 1] = 1e300
    np.save(hkuds / "image_feat.npy", rows)
    refused(hkuds, "image_feat.npy: 1 values", "infinite as float32", "row 2")


def test_non_finite_features(hkuds):
    np.save(hkuds / "image_feat.npy", np.array([[0], [0], [np.nan], [np.inf], [0]]))
    refused(hkuds, "image_feat.npy: 2 values", "row 2")


def test_disagreeing_feature_rows(hkuds):
    np.save(hkuds / "text_feat.npy", np.ones((6, 2)))
    refused(hkuds, "image_feat.npy has 5 rows, text_feat.npy has 6 rows", "expected the same")


@pytest.mark.parametrize("shape", [(5,), (), (5, 0), (5, 2, 2)])
def test_feature_shapes_that_are_refused(hkuds, shape):
    np.save(hkuds / "audio_feat.npy", np.ones(shape))
    refused(hkuds, "audio_feat.npy", f"shape {shape}", "expected 2-d")


def test_features_with_pickled_objects(hkuds):
    np.save(hkuds / "image_feat.npy", np.array([[{}]], object), allow_pickle=True)
    refused(hkuds, "image_feat.npy: dtype object, expected float16")


@pytest.mark.parametrize("keep", [0, 3, 20, 140])
def test_truncated_features(hkuds, keep):
    path = hkuds / "image_feat.npy"
    path.write_bytes(path.read_bytes()[:keep])
    refused(hkuds, "image_feat.npy: not a usable .npy file", "expected a float array")


def test_no_modality(hkuds):
    for path in hkuds.glob("*.npy"):
        path.unlink()
    refused(hkuds, "no modality", "<modality>_feat.npy", "found test.json")


def test_selected_modality(hkuds):
    (hkuds / "audio_feat.npy").write_bytes(b"not read")
    assert read_dataset(hkuds, modalities=["image"]).modalities == ("image",)


def test_unknown_modality(hkuds):
    refused(hkuds, "no smell_feat.npy", "'smell'", "some of audio, image", modalities=["smell"])


def test_no_modality_selected(hkuds):
    refused(hkuds, "no modality selected, expected some of audio, image", modalities=[])


@pytest.mark.parametrize("layout", ["hkuds", "mmrec"])
def test_items_beyond_the_features(layout, request):
    folder = request.getfixturevalue(layout)
    write_features(folder, rows=3)
    refused(folder, "user 0 has item 3", "expected item ids 0 to 2")


# hkuds


@pytest.mark.parametrize("file", ["train.json", "val.json", "test.json"])
def test_missing_json(hkuds, file):
    (hkuds / file).unlink()
    refused(hkuds, f"missing {file}", "expects train.json, val.json, test.json")


@pytest.mark.parametrize("text", ["", "{", '{"0": [1,]}', "\ufffd{}", "[" * 100_000])
def test_malformed_json(hkuds, text):
    (hkuds / "val.json").write_text(text, encoding="utf-8")
    refused(hkuds, "val.json: malformed JSON", "expected an object of user id -> [item ids]")


def test_json_that_is_not_utf8(hkuds):
    (hkuds / "val.json").write_bytes(b'{"0": "\xff"}')
    refused(hkuds, "val.json: not UTF-8, byte 0xff in line 1")


def test_json_top_level(hkuds):
    (hkuds / "val.json").write_text("[[0, 1]]")
    refused(hkuds, "val.json: the top level is a JSON list, expected an object")


@pytest.mark.parametrize("key", ["-1", "1.0", "x", "", "01", " 1", "\u0663", "9" * 30])
def test_json_user_ids(hkuds, key):
    (hkuds / "test.json").write_text(json.dumps({key: [1]}))
    refused(hkuds, f"test.json: user id {key!r}", "expected a whole number from 0")


@pytest.mark.parametrize("item", ["-1", "1.0", "true", "null", "'1'", "NaN", "[1]", "9" * 30])
def test_json_item_ids(hkuds, item):
    (hkuds / "test.json").write_text(f'{{"3": [0, {item}]}}'.replace("'", '"'))
    refused(hkuds, f"test.json: user 3 has item {item}", "expected a whole number from 0")


def test_json_items_that_are_no_list(hkuds):
    (hkuds / "test.json").write_text('{"3": 7}')
    refused(hkuds, "test.json: user 3 has 7, expected a list")


def test_json_repeated_user(hkuds):
    (hkuds / "test.json").write_text('{"3": [1], "2": [0], "3": [2]}')
    refused(hkuds, "test.json: the key '3' appears twice", "expected each key once")


def test_json_duplicates_are_merged(hkuds):
    (hkuds / "test.json").write_text('{"2": [1, 1], "3": [2, 2, 2]}')
    with pytest.warns(DatasetWarning, match=r"test\.json: merged 3 duplicate interactions"):
        assert_is_the_example(read_dataset(hkuds))


def test_json_user_with_an_empty_list_counts(hkuds):
    (hkuds / "val.json").write_text('{"6": [], "0": [2]}')
    assert read_dataset(hkuds).n_users == 7


def test_no_training_interactions(hkuds):
    (hkuds / "train.json").write_text("{}")
    refused(hkuds, "train.json: no training interactions")


def test_same_pair_in_two_files(hkuds):
    (hkuds / "val.json").write_text('{"0": [3]}')
    refused(hkuds, "train.json and val.json: 1 (user, item) pairs", "user 0, item 3")


def test_user_with_every_item(hkuds):
    (hkuds / "train.json").write_text('{"1": [0, 1, 2, 3, 4]}')
    refused(hkuds, "train.json: user 1 has all 5 items", "as a negative")


# mmrec


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "toys.inter"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_windows_line_ends(mmrec):
    path = mmrec / "toys.inter"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert_is_the_example(read_dataset(mmrec))


def test_several_tables(mmrec):
    (mmrec / "more.inter").write_text("")
    refused(mmrec, "found more.inter, toys.inter, expected exactly one <name>.inter")


def test_no_table(hkuds):
    refused(hkuds, "found none, expected exactly one <name>.inter", layout="mmrec")


@pytest.mark.parametrize("column", ["userID", "itemID", "x_label"])
def test_missing_column(mmrec, column):
    edit(mmrec, column, "other")
    refused(mmrec, "toys.inter: line 1 names the columns", "other", f"expected one {column!r}")


def test_ragged_row(mmrec):
    edit(mmrec, "0\t3\t5.0\t0", "0\t3\t5.0")
    refused(mmrec, "toys.inter: line 3 has 3 fields, expected 4 fields as in line 1")


@pytest.mark.parametrize("text", ["-2", "2.0", "", "two", "9" * 30])
def test_table_ids(mmrec, text):
    edit(mmrec, "2\t0\t5.0", f"2\t{text}\t5.0")
    refused(mmrec, f"toys.inter: line 4, itemID is {text!r}", "expected a whole number from 0")


def test_table_labels(mmrec):
    edit(mmrec, "2\t0\t5.0\t0", "2\t0\t5.0\t3")
    refused(mmrec, "toys.inter: line 4, x_label is 3", "expected 0 (train), 1 (validation) or 2")


def test_table_duplicates_are_merged(mmrec):
    edit(mmrec, "2\t0\t5.0\t0", "2\t0\t5.0\t0\n2\t0\t1.0\t0")
    with pytest.warns(DatasetWarning, match=r"toys\.inter, x_label 0: merged 1 duplicate"):
        assert_is_the_example(read_dataset(mmrec))


def test_table_pair_in_two_splits(mmrec):
    edit(mmrec, "0\t2\t5.0\t1", "0\t1\t5.0\t1")
    refused(mmrec, "toys.inter, x_label 0 and toys.inter, x_label 1: 1 (user, item)")


def test_header_alone(mmrec):
    (mmrec / "toys.inter").write_text("userID\titemID\tx_label\n")
    refused(mmrec, "toys.inter, x_label 0: no training interactions")


def test_table_that_is_not_text(mmrec):
    (mmrec / "toys.inter").write_bytes(b"userID\xff")
    refused(mmrec, "toys.inter: not UTF-8, byte 0xff in line 1")


# diffmm


def patch_train(folder: Path, made, protocol: int = 3) -> None:
    (folder / "trnMat.pkl").write_bytes(pickle.dumps(made, protocol=protocol))


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("coords", [False, True])
def test_pickles_of_current_scipy(tmp_path, monkeypatch, protocol, coords):
    Pickles(monkeypatch, "scipy.sparse._coo").write(tmp_path, protocol=protocol, coords=coords)
    write_features(tmp_path)
    assert_is_the_example(read_dataset(tmp_path))


def test_pickles_of_old_numpy(diffmm_folder):
    for file in diffmm.FILES:
        path = diffmm_folder / file
        content = path.read_bytes()
        old = content.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")
        path.write_bytes(old)
        assert b"numpy.core.multiarray\n" in path.read_bytes()
    assert_is_the_example(read_dataset(diffmm_folder))


@pytest.mark.parametrize("dtype", [">i4", "int64", "uint16"])
def test_index_types(tmp_path, old_scipy, dtype):
    old_scipy.write(tmp_path, dtype=dtype)
    write_features(tmp_path)
    assert_is_the_example(read_dataset(tmp_path))


def test_real_scipy_matrices(tmp_path):
    sparse = pytest.importorskip("scipy.sparse")
    for file, pairs in zip(diffmm.FILES, SPLITS.values(), strict=True):
        rows, columns = np.array(pairs).T
        made = sparse.coo_matrix((np.ones(len(pairs)), (rows, columns)), shape=SHAPE)
        (tmp_path / file).write_bytes(pickle.dumps(made, protocol=4))
    write_features(tmp_path)
    assert_is_the_example(read_dataset(tmp_path))


def test_zero_entries_are_no_interactions(diffmm_folder, old_scipy):
    pairs = [*SPLITS["train"], (1, 1)]
    patch_train(diffmm_folder, old_scipy.matrix(pairs, values=[1.0, 0.5, -1.0, 0.0]))
    assert_is_the_example(read_dataset(diffmm_folder))


def test_matrix_duplicates_are_merged(diffmm_folder, old_scipy):
    patch_train(diffmm_folder, old_scipy.matrix([*SPLITS["train"], (2, 0)]))
    with pytest.warns(DatasetWarning, match=r"trnMat\.pkl: merged 1 duplicate .* user 2, item 0"):
        assert_is_the_example(read_dataset(diffmm_folder))


@pytest.mark.parametrize("file", diffmm.FILES)
def test_missing_matrix(diffmm_folder, file):
    (diffmm_folder / file).unlink()
    refused(diffmm_folder, f"missing {file}", "expects trnMat.pkl, valMat.pkl, tstMat.pkl")


class Runs:
    """Unpickled without care, creates a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_foreign_global_is_refused_and_not_run(diffmm_folder, old_scipy, protocol):
    marker = diffmm_folder / "ran"
    made = old_scipy.coo_matrix()
    made.row = Runs(marker)
    patch_train(diffmm_folder, made, protocol)
    refused(diffmm_folder, "trnMat.pkl", f"{os.mkdir.__module__}.mkdir", "refused and not run")
    assert not marker.exists()
    pickle.loads((diffmm_folder / "trnMat.pkl").read_bytes())
    assert marker.exists(), "the pickle was harmless to begin with"


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (b"\x80\x03cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R.", "builtins.eval"),
        (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", "numpy.ndarray.__class__"),
        (b"\x80\x03cscipy.sparse._csr\ncsr_matrix\n.", "scipy.sparse._csr.csr_matrix"),
    ],
)
def test_names_outside_the_list(diffmm_folder, content, asked):
    (diffmm_folder / "trnMat.pkl").write_bytes(content)
    refused(diffmm_folder, f"trnMat.pkl: the pickle asks for '{asked}'", "expected only scipy.")


def test_protocol_5_is_refused_with_advice(diffmm_folder, old_scipy):
    patch_train(diffmm_folder, old_scipy.matrix(SPLITS["train"]), protocol=5)
    refused(diffmm_folder, "_frombuffer", "pickle protocol 3 or 4")


@pytest.mark.parametrize(
    "state", [b"}X\x05\x00\x00\x00stateK\x01s", b"N}X\x05\x00\x00\x00stateK\x01s\x86"]
)
@pytest.mark.parametrize(
    "name", [b"numpy\nndarray", b"numpy\ndtype", b"scipy.sparse.coo\ncoo_matrix"]
)
def test_a_pickle_cannot_give_a_state_to_a_class(diffmm_folder, name, state):
    (diffmm_folder / "trnMat.pkl").write_bytes(b"\x80\x03c" + name + b"\n" + state + b"b.")
    refused(diffmm_folder, "trnMat.pkl: malformed pickle", "expected a COO matrix")


def test_arrays_of_objects_are_refused(diffmm_folder, old_scipy):
    patch_train(diffmm_folder, old_scipy.matrix(SPLITS["train"], values=[None, 1, 2]))
    refused(diffmm_folder, "trnMat.pkl: malformed pickle (the instruction EMPTY_LIST, which no")


@pytest.mark.parametrize("keep", [0, 1, 40, 300])
def test_truncated_pickle(diffmm_folder, keep):
    path = diffmm_folder / "trnMat.pkl"
    path.write_bytes(path.read_bytes()[:keep])
    refused(diffmm_folder, "trnMat.pkl: malformed pickle", "expected a COO matrix")


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        ({"row": 1}, "dict"),
        ((1,), "tuple"),
        (None, "NoneType"),
        (np.ones(3), f"{np.ones(3).__reduce__()[0].__module__}._reconstruct"),
    ],
)
def test_pickle_of_something_else(diffmm_folder, made, kind):
    patch_train(diffmm_folder, made)
    refused(diffmm_folder, f"trnMat.pkl: holds {kind}, expected a COO matrix")


@pytest.mark.parametrize(
    "shape", [(4,), (4, 5, 1), (4.0, 5), (-1, 5), None, (True, 5), (4, 1 << 40)]
)
def test_matrix_shape(diffmm_folder, old_scipy, shape):
    patch_train(diffmm_folder, old_scipy.matrix(SPLITS["train"], shape=shape))
    refused(diffmm_folder, f"trnMat.pkl: matrix shape {shape!r}", "expected (users, items)")


def test_matrices_of_different_shapes(diffmm_folder, old_scipy):
    patch_train(diffmm_folder, old_scipy.matrix(SPLITS["train"], shape=(4, 6)))
    refused(diffmm_folder, "trnMat.pkl is 4 x 6", "valMat.pkl is 4 x 5", "expected one shape")


def test_matrix_columns_other_than_feature_rows(diffmm_folder):
    write_features(diffmm_folder, rows=6)
    refused(diffmm_folder, "audio_feat.npy: 6 rows", "trnMat.pkl has 5 columns")


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ((4, 0), "row 4, expected 0 to 3"),
        ((-1, 0), "row -1, expected 0 to 3"),
        ((0, 5), "column 5, expected 0 to 4"),
    ],
)
def test_matrix_ids(diffmm_folder, old_scipy, pair, says):
    patch_train(diffmm_folder, old_scipy.matrix([(0, 1), pair]))
    refused(diffmm_folder, f"trnMat.pkl: entry 1 has {says}")


def test_matrix_ids_that_are_no_whole_numbers(diffmm_folder, old_scipy):
    patch_train(diffmm_folder, old_scipy.matrix(SPLITS["train"], dtype=float))
    refused(diffmm_folder, "trnMat.pkl: row ids are float64, expected whole numbers")


def test_matrix_of_unequal_lengths(diffmm_folder, old_scipy):
    patch_train(diffmm_folder, old_scipy.matrix(SPLITS["train"], values=[1.0]))
    refused(diffmm_folder, "trnMat.pkl: 3 rows, 3 columns and 1 values", "expected as many of each")


def test_matrix_of_two_dimensions_inside(diffmm_folder, old_scipy):
    patch_train(diffmm_folder, old_scipy.matrix(SPLITS["train"], values=[[1.0], [1.0], [1.0]]))
    refused(diffmm_folder, "trnMat.pkl: data has shape (3, 1)", "expected 1-d")


def test_matrix_without_rows(diffmm_folder, old_scipy):
    made = old_scipy.matrix(SPLITS["train"])
    del made.row
    patch_train(diffmm_folder, made)
    refused(diffmm_folder, "trnMat.pkl: row is not a NumPy array")


# The package and the real data


def test_reading_needs_neither_jax_nor_scipy(diffmm_folder):
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['jax', 'scipy']))\n"
        "from mmssl_jax.data import planted_dataset, read_dataset\n"
        f"print(read_dataset({str(diffmm_folder)!r}).n_users, planted_dataset().n_users)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout.split(), done.stderr) == (["4", "1200"], "")


def test_tiktok():
    data = read_dataset(shared(SHARED / "tiktok"))
    assert (data.n_users, data.n_items, data.modalities) == (9308, 6710, ("audio", "image"))
    assert [len(edges) for edges in data.splits.values()] == [59541, 3051, 6130]
    assert len(np.unique(data.train[:, 0])) == 9308 - 10
    assert len(np.unique(data.train[:, 1])) == 6710 - 465
    rows = data.summary().splitlines()
    assert [row.split()[-1] for row in rows[-2:]] == ["10", "465"]
    assert np.isfinite(data.features["image"].sum(axis=0)).all()


def test_baby_lacks_features():
    refused(shared(SHARED / "baby"), "no modality", "found trnMat.pkl, tstMat.pkl, valMat.pkl")


def test_golden_tiny():
    data = read_dataset(shared(SHARED.parent / "golden" / "data" / "tiny"))
    assert data.modalities == ("image", "text")
    assert {m: x.shape for m, x in data.features.items()} == {"image": (64, 12), "text": (64, 10)}
    assert data.train[:4].tolist() == [[0, 1], [0, 37], [0, 44], [0, 47]]
    assert data.n_items == 64


def test_features_of_zero_are_warned_of(tmp_path):
    dataset = tiny_dataset()
    folder = write_folder(dataset, tmp_path / "data")
    rows = next(iter(dataset.features.values())).copy()
    rows[[3, 5]] = 0
    np.save(folder / "blank_feat.npy", rows)
    with pytest.warns(DatasetWarning, match=r"blank_feat\.npy: 2 of 40 items .*item 3;.*mask"):
        read_dataset(folder)
    present = np.ones(len(rows), bool)
    present[[3, 5]] = False
    np.save(folder / "blank_mask.npy", present)
    assert "blank" in read_dataset(folder).presence
