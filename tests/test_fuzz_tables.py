"""Tables of random rows are read back as they were written; damaged ones are read or refused."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from mmssl_jax.data import DatasetError
from mmssl_jax.prepare.features import feature_content
from mmssl_jax.prepare.ids import MISSING
from mmssl_jax.prepare.log import read_log
from mmssl_jax.prepare.settings import Settings, TableSettings
from mmssl_jax.prepare.tables import read_column, read_table

pl = pytest.importorskip("polars", reason="needs the extra `tables`")
hypothesis = pytest.importorskip("hypothesis", reason="needs the extra `dev`")
st = pytest.importorskip("hypothesis.strategies", reason="needs the extra `dev`")
given = hypothesis.given
pytestmark = pytest.mark.extras
quick = hypothesis.settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
FORM = TableSettings()
NO_SURROGATES = st.characters(exclude_categories=["Cs"])
ANY_TEXT = st.text(NO_SURROGATES | st.sampled_from("\"',;\t\n\r\\ \0#"), max_size=12)
# What a table without quotation can hold.
ONE_LINE = ANY_TEXT.map(lambda text: "".join(c for c in text if c not in "\t\r\n"))


def rows_of(texts):
    """Rows of three texts."""
    return st.lists(st.tuples(texts, texts, texts), max_size=8)


def read_rows(path: Path, form: TableSettings = FORM) -> list[tuple]:
    """The rows that are read, all columns of them."""
    return read_table(str(path), ["a", "b", "c"], form).rows()


@quick
@given(rows=rows_of(ANY_TEXT), ends=st.sampled_from(["\n", "\r\n", "\r"]), all_quoted=st.booleans())
def test_csv_as_python_writes_it(tmp_path, rows, ends, all_quoted):
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        # Of line ends in a field, the module sees only those that it writes itself.
        is_minimal = ends == "\r\n" and not all_quoted
        quoting = csv.QUOTE_MINIMAL if is_minimal else csv.QUOTE_ALL
        csv.writer(file, lineterminator=ends, quoting=quoting).writerows([("a", "b", "c"), *rows])
    assert read_rows(path) == rows


@quick
@given(rows=rows_of(ONE_LINE), ends=st.sampled_from(["\n", "\r\n"]))
def test_tsv_without_quotation(tmp_path, rows, ends):
    path = tmp_path / "t.tsv"
    lines = ["\t".join(row) for row in [("a", "b", "c"), *rows]]
    path.write_bytes("".join(line + ends for line in lines).encode())
    assert read_rows(path) == rows


@quick
@given(rows=rows_of(ANY_TEXT), separator=st.sampled_from(";|:~ "))
def test_other_separators(tmp_path, rows, separator):
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-16") as file:
        csv.writer(file, delimiter=separator).writerows([("a", "b", "c"), *rows])
    assert read_rows(path, TableSettings(separator=separator, encoding="utf-16")) == rows


@quick
@given(rows=rows_of(ANY_TEXT))
def test_parquet(tmp_path, rows):
    path = tmp_path / "t.parquet"
    columns = {name: [row[k] for row in rows] for k, name in enumerate("abc")}
    pl.DataFrame(columns, schema=dict.fromkeys("abc", pl.String)).write_parquet(path)
    assert read_rows(path) == rows


def is_id(raw: str) -> bool:
    """Whether a text may be one."""
    ends = {raw[:1], raw[-1:]} - set("\x1c\x1d\x1e\x1f")  # not blanks in Unicode, but for Python
    is_plain = raw not in MISSING and "E+" not in raw and "\0" not in raw
    return bool(raw) and is_plain and not any(map(str.isspace, ends))


@quick
@given(pairs=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=8))
def test_interactions_are_those_of_the_table_or_refused(tmp_path, pairs):
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("user_id", "item_id"), *pairs])
    if not all(is_id(raw) for pair in pairs for raw in pair):
        with pytest.raises(DatasetError, match="data row"):
            read_log(Settings(interactions=str(path), out="o"))
        return
    log = read_log(Settings(interactions=str(path), out="o"))
    users, items = log.user_ids[log.users].tolist(), log.item_ids[log.items].tolist()
    assert sorted(zip(users, items, strict=True)) == sorted(set(pairs))


GOOD_CSV = b'item_id,title,rating\n1,"a ""b"", c",3\n2,x,4\n"3","y\nz",5\n'
DAMAGE = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4)


def damaged(content: bytes, damage: list[tuple[int, int]], length: int) -> bytes:
    """The content with other bytes in some places, and cut off."""
    found = bytearray(content)
    for place, byte in damage:
        found[place % len(found)] = byte
    return bytes(found[: length % (2 * len(found))])


def read_or_refused(read, path: Path) -> None:
    """Calls; what it may raise is a DatasetError that is short and names the file."""
    told = path.name
    try:
        read()
    except DatasetError as error:
        told = str(error)
    assert path.name in told
    assert len(told) < 2000


@quick
@given(damage=DAMAGE, length=st.integers(0, 10**4), suffix=st.sampled_from(["csv", "tsv"]))
def test_damaged_texts(tmp_path, damage, length, suffix):
    path = tmp_path / f"t.{suffix}"
    path.write_bytes(
        damaged(GOOD_CSV.replace(b",", b"\t" * (suffix == "tsv") or b","), damage, length)
    )
    chosen = Settings(interactions="", out="", items=str(path))
    read_or_refused(lambda: read_column(chosen, "item_id", ["title"]), path)


def written(suffix: str) -> bytes:
    """A good file of features."""
    file, ids, rows = io.BytesIO(), ["1", "2", "3"], np.eye(3, dtype=np.float32)
    if suffix == "npy":
        np.save(file, rows)
    elif suffix == "npz":
        np.savez(file, ids=np.array(ids), features=rows)
    else:
        pl.DataFrame({"item_id": ids, "v": rows.tolist()}).write_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["npy", "npz", "parquet"])
@quick
@given(damage=DAMAGE, length=st.integers(0, 10**4))
def test_damaged_features(tmp_path, suffix, damage, length):
    path, ids = tmp_path / f"f.{suffix}", tmp_path / "f.npy.ids"
    path.write_bytes(damaged(written(suffix), damage, length))
    ids.write_text("1\n2\n3\n")
    file = f"{path}@{ids}" if suffix == "npy" else str(path)
    read_or_refused(lambda: feature_content(["1", "2"], file, "item_id"), path)
