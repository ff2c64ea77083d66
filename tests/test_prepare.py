"""`python -m mmssl_jax.prepare` from raw files to a dataset folder, with encoders of the tests."""

import datetime
import json
import re
from pathlib import Path

import numpy as np
import pytest

from mmssl_jax.cli.prepare import main, train_command
from mmssl_jax.data import read_dataset
from tests import shop

pl = pytest.importorskip("polars", reason="needs the extra `tables`")
Image = pytest.importorskip("PIL.Image", reason="needs the extra `encoders`")
pytestmark = pytest.mark.extras

USERS, ITEMS = ["u1", "u2", "u3"], ["007", "7", "x y", "é"]
ROWS = [  # user, item, rating, time
    ("u1", "007", 5, 10),
    ("u1", "7", 4, 30),
    ("u1", "é", 3, 20),
    ("u1", "7", 5, 5),  # once more, earlier
    ("u2", "7", 5, 11),
    ("u2", "x y", 1, 12),
    ("u2", "é", 5, 13),
    ("u2", "007", 5, 14),
    ("u3", "x y", 4, 15),
    ("u3", "007", "", 16),
    ("u3", "é", 4, 17),
]
HEADER = ("user_id", "item_id", "rating", "time")
TITLES = [("é", "abba", 1), ("x y", "  ", 2), ("7", "cab", 3), ("other", "aaa", 4)]


@pytest.fixture
def raw(tmp_path):
    """log.csv, items.csv, and images of which one is broken and one missing."""
    shop.write_table(tmp_path / "log.csv", HEADER, ROWS)
    shop.write_table(tmp_path / "items.csv", ("item_id", "title", "price"), TITLES)
    (tmp_path / "images").mkdir()
    for k, name in enumerate(["007.png", "7.JPG", "other.png"]):
        Image.new("RGB", (9 + 8 * k, 9), (9 * k, 50, 200)).save(tmp_path / "images" / name)
    (tmp_path / "images" / "é.png").write_bytes((tmp_path / "images" / "007.png").read_bytes()[:50])
    (tmp_path / "images" / "notes.txt").write_text("no image")
    shop.calls.clear()
    return tmp_path


def run(raw: Path, *flags: str, log: str = "log.csv", out: str = "out") -> Path:
    main(
        [
            f"--interactions={raw / log}",
            f"--out={raw / out}",
            f"--cache={raw / 'cache'}",
            "--core.users=1",
            "--core.items=1",
            *flags,
        ]
    )
    return raw / out


def text_flags(raw: Path) -> list[str]:
    items = f"--items={raw / 'items.csv'}"
    return [items, "--text.column=title", "--text.encoder=tests.shop:letters"]


def image_flags(raw: Path) -> list[str]:
    return [f"--image.folder={raw / 'images'}", "--image.encoder=tests.shop:file_sizes"]


def refused(capsys, raw: Path, *flags: str, says: str, **options) -> None:
    with pytest.raises(SystemExit) as left:
        run(raw, *flags, **options)
    assert left.value.code == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert "Traceback" not in printed


def raw_pairs(data, split: str) -> set[tuple[str, str]]:
    edges = data.splits[split]
    return {(data.user_ids[u], data.item_ids[i]) for u, i in edges.tolist()}


def test_from_raw_files_to_a_dataset(raw, capsys):
    out = run(
        raw,
        *text_flags(raw),
        *image_flags(raw),
        "--split.method=leave_one_out",
        "--time_column=time",
    )

    data = read_dataset(out)
    assert (data.user_ids.tolist(), data.item_ids.tolist()) == (USERS, ITEMS)
    # u1 met 7 first at 5, so 007 at 10 and é at 20 are the last.
    assert raw_pairs(data, "test") == {("u1", "é"), ("u2", "007"), ("u3", "é")}
    assert raw_pairs(data, "validation") == {("u1", "007"), ("u2", "é"), ("u3", "007")}
    assert raw_pairs(data, "train") == {("u1", "7"), ("u2", "7"), ("u2", "x y"), ("u3", "x y")}
    assert data.presence["text"].tolist() == [False, True, False, True]
    assert data.features["text"].tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0], [2, 2, 0]]
    assert data.presence["image"].tolist() == [True, True, False, False]
    size = [(raw / "images" / name).stat().st_size for name in ("007.png", "7.JPG")]
    assert data.features["image"].tolist() == [[size[0]] * 2, [size[1]] * 2, [0, 0], [0, 0]]

    record = json.loads((out / "prepare.json").read_text(encoding="utf-8"))
    assert record["settings"]["split"]["method"] == "leave_one_out"
    read, kept = record["summary"]["read"], record["summary"]["kept"]
    assert (read["rows"], read["duplicates_merged"], read["interactions"]) == (11, 1, 10)
    assert (kept["users"], kept["items"], kept["train"]) == (3, 4, 4)
    assert kept["items_without_any_modality"] == 1
    text, image = (record["summary"]["modalities"][name] for name in ("text", "image"))
    assert (text["missing"], text["missing_rate"], text["newly_encoded"]) == (2, 0.5, 2)
    assert text["reasons"]["not_in_table"] == {"items": 1, "first": ["007"]}
    assert text["reasons"]["empty"] == {"items": 1, "first": ["x y"]}
    assert image["reasons"]["no_file"] == {"items": 1, "first": ["x y"]}
    assert image["reasons"]["unreadable"] == {"items": 1, "first": ["é"]}
    printed = capsys.readouterr().out
    assert "unreadable" in printed
    assert "2 (50.00%)" in printed


def test_a_second_run_encodes_nothing_and_a_change_encodes_what_changed(raw):
    flags = [*text_flags(raw), *image_flags(raw)]
    first = run(raw, *flags)
    assert sorted(map(str, shop.calls)) == sorted(
        ["abba", "cab", *(str(raw / "images" / name) for name in ("007.png", "7.JPG"))]
    )
    shop.calls.clear()
    second = run(raw, *flags, out="again")
    assert not shop.calls
    assert read_dataset(first).fingerprint() == read_dataset(second).fingerprint()

    shop.write_table(raw / "items.csv", ("item_id", "title"), [("7", "ccc"), ("é", "abba")])
    run(raw, *flags, out="third")
    assert shop.calls == ["ccc"]


def test_equal_texts_are_encoded_once_and_in_batches_of_the_size(raw):
    rows = [(raw_id, text) for raw_id, text in zip(ITEMS, ["ab", "ab", "c", "ab"], strict=True)]
    shop.write_table(raw / "items.csv", ("item_id", "title"), rows)
    run(raw, *text_flags(raw), "--text.batch_size=1")
    assert shop.calls == ["ab", "c"]


def test_ratings_below_the_threshold_and_without_one_are_left_out(raw):
    flags = ["--rating_column=rating", "--min_rating=4", "--split.method=leave_one_out"]
    out = run(raw, *text_flags(raw), *flags)
    record = json.loads((out / "prepare.json").read_text(encoding="utf-8"))["summary"]["read"]
    assert record["rows"] == 11
    assert (record["rows_without_rating"], record["rows_below_min_rating"]) == (1, 2)
    assert record["duplicates_merged"] == 1
    data = read_dataset(out)
    pairs = set.union(*(raw_pairs(data, split) for split in data.splits))
    assert pairs == {(u, i) for u, i, rating, _ in ROWS if rating != "" and rating >= 4}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_rating_of_nan_is_none(raw, capsys, suffix):
    rows = [(*row[:2], "NaN" if row[2] == "" else row[2], row[3]) for row in ROWS]
    if suffix == "csv":
        shop.write_table(raw / "log.csv", HEADER, rows)
    else:
        columns = dict(zip(HEADER, zip(*rows, strict=True), strict=True))
        rating = [float(value) for value in columns["rating"]]
        pl.DataFrame({**columns, "rating": rating}).write_parquet(raw / "log.parquet")
    flags = ["--rating_column=rating", "--min_rating=2", "--split.method=leave_one_out"]
    data = read_dataset(run(raw, *text_flags(raw), *flags, log=f"log.{suffix}"))
    assert not any(("u3", "007") in raw_pairs(data, split) for split in data.splits)
    printed = capsys.readouterr().out
    assert re.search(r"without a rating +1\n +below min_rating +1\n", printed)


def test_core_removes_users_items_and_their_content(raw):
    # Users have two interactions left, too few for leave_one_out: one is validation.
    flags = ["--core.users=2", "--core.items=3", "--split.validation=0.5", "--split.test=0"]
    out = run(raw, *text_flags(raw), *image_flags(raw), *flags)
    data = read_dataset(out)
    record = json.loads((out / "prepare.json").read_text(encoding="utf-8"))["summary"]
    assert (record["read"]["items"], record["kept"]["items"]) == (4, 2)
    assert data.item_ids.tolist() == ["007", "é"]
    assert data.features["text"].tolist() == [[0, 0, 0], [2, 2, 0]]
    assert data.presence["image"].tolist() == [True, False]


def test_columns_of_texts_are_joined(raw):
    run(raw, *text_flags(raw), "--text.column=[title, price]")
    assert sorted(shop.calls) == ["2", "abba\n1", "cab\n3"]


@pytest.mark.parametrize("suffix", ["tsv", "parquet"])
def test_other_tables_say_the_same(raw, suffix):
    flags = [*text_flags(raw), "--time_column=time", "--split.method=time_per_user"]
    expected = read_dataset(run(raw, *flags))
    if suffix == "tsv":
        shop.write_table(raw / "log.tsv", HEADER, ROWS)
    else:
        columns = dict(zip(HEADER, zip(*ROWS, strict=True), strict=True))
        rating = [None if r == "" else float(r) for r in columns["rating"]]
        pl.DataFrame({**columns, "rating": rating}).write_parquet(raw / "log.parquet")
    found = read_dataset(run(raw, *flags, log=f"log.{suffix}", out="other"))
    assert found.fingerprint() == expected.fingerprint()


def test_numeric_ids_of_a_parquet_table_are_plain_strings(raw):
    np.savez(raw / "f.npz", ids=np.array([10, 3, 11]), features=np.eye(3))
    pl.DataFrame({"user_id": [1, 1, 2, 2], "item_id": [3.0, 10.0, 3.0, 12.0]}).write_parquet(
        raw / "log.parquet"
    )
    data = read_dataset(run(raw, f"--features=a={raw / 'f.npz'}", log="log.parquet"))
    assert (data.user_ids.tolist(), data.item_ids.tolist()) == (["1", "2"], ["10", "12", "3"])
    assert data.features["a"].tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("times", [("2024-01-0{}", "dates"), ("2024-01-01 10:00:0{}", "moments")])
def test_dates_order_as_numbers_do(raw, times):
    order = {t: k for k, t in enumerate(sorted(row[3] for row in ROWS))}
    days = [times[0].format(min(9, 1 + order[row[3]])) for row in ROWS]
    shop.write_table(
        raw / "dates.csv", HEADER, [(*row[:3], day) for row, day in zip(ROWS, days, strict=True)]
    )
    flags = [*text_flags(raw), "--time_column=time", "--split.method=leave_one_out"]
    data = read_dataset(run(raw, *flags, log="dates.csv"))
    assert ("u1", "é") in raw_pairs(data, "train") | raw_pairs(data, "test")
    assert ("u1", "7") in raw_pairs(data, "train")


@pytest.mark.parametrize(
    ("shape", "time_format"),
    [
        ("2024-01-{day:02}", ""),
        ("2024-01-{day:02}T12:30", ""),
        ("2024-01-01 10:00:{day:02}", ""),
        ("2024-01-01T10:00:00.{day:02}Z", ""),
        ("2024-01-01 10:{day:02}:00+00", ""),
        ("2024-01-01 10:{day:02}:00-0730", ""),
        ("{day:02}/01/2024", "%d/%m/%Y"),
        ("01/{day:02}/2024 9:15 PM", "%m/%d/%Y %I:%M %p"),
        ("1.1.2024 10:00:00.{day:02}", "%d.%m.%Y %H:%M:%S%.f"),
        ("202401{day:02}", "%Y%m%d"),
        ("202401{day:02}", ""),  # a number, in the same order
    ],
)
def test_dates_give_the_split_that_numbers_give(raw, shape, time_format):
    flags = [*text_flags(raw), "--time_column=time", "--split.method=leave_one_out"]
    expected = read_dataset(run(raw, *flags, out="numbers"))
    rows = [(*row[:3], shape.format(day=row[3])) for row in ROWS]
    shop.write_table(raw / "dates.csv", HEADER, rows)
    given = [f"--time_format={time_format}"] if time_format else []
    found = read_dataset(run(raw, *flags, *given, log="dates.csv"))
    assert found.fingerprint() == expected.fingerprint()


def test_offsets_from_utc_count(raw):
    flags = [*text_flags(raw), "--time_column=time", "--split.method=leave_one_out"]
    expected = read_dataset(run(raw, *flags, out="numbers"))
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    rows = []
    for number, row in enumerate(ROWS):
        there = datetime.timezone(datetime.timedelta(hours=[-7, 0, 5.5][number % 3]))
        moment = (start + datetime.timedelta(minutes=row[3])).astimezone(there)
        rows.append((*row[:3], moment.isoformat()))
    shop.write_table(raw / "dates.csv", HEADER, rows)
    assert read_dataset(run(raw, *flags, log="dates.csv")).fingerprint() == expected.fingerprint()


@pytest.mark.parametrize(
    "wrong",
    [
        "12/01/2023", "12-01-2023", "01-12-20", "2024/01/31", "2024-1-31", "2024-13-01",
        "2024-01-31 25:00", "2024-01-31T10:00+01:00", "Jan 5 2024", " 2024-01-31",
        "2024-01-31 10:00Z30", "2024-01-31 10:00+05:", "",
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_first", [True, False])
def test_a_date_in_another_format_is_refused_with_its_value(raw, capsys, wrong, is_first):
    times = ["2024-01-30"] * len(ROWS)
    times[0 if is_first else 4] = wrong
    rows = [(*row[:3], time) for row, time in zip(ROWS, times, strict=True)]
    shop.write_table(raw / "log.csv", HEADER, rows)
    flags = ["--time_column=time", "--split.method=leave_one_out"]
    says = "log.csv: column 'time' is "
    if not is_first:
        says += f"{wrong!r} in data row 5; expected" if wrong else "empty in data row 5; expected"
    refused(capsys, raw, *text_flags(raw), *flags, says=says)


@pytest.mark.parametrize(
    ("columns", "flags", "says"),
    [
        ({"item_id": [1.0, float("nan"), 3.0]}, [], "'item_id' is nan in data row 2; expected an"),
        ({"item_id": [1.0, 2.0, float("inf")]}, [], "'item_id' is inf in data row 3; expected an"),
        ({"item_id": [1e300, 2.0, 3.0]}, [], "'item_id' is 1e+300 in data row 1; expected an id"),
        ({"user_id": [0.5, float("nan"), 3.0]}, [], "'user_id' is nan in data row 2; expected an"),
        (
            {"item_id": [2.0**53, 2.0, 3.0]},
            [],
            "'item_id' is 9007199254740992.0 in data row 1; expect",
        ),
        ({"item_id": np.float32([2**24, 2, 3])}, [], "'item_id' is 16777216.0 in data row 1; exp"),
        ({"item_id": [[1], [2], [3]]}, [], "'item_id' has type List(Int64), expected ids"),
        ({"user_id": [b"\xff"] * 3}, [], "'user_id' has type Binary, expected ids"),
        ({"time": [datetime.time(k) for k in range(3)]}, [], "'time' has type Time, expected num"),
        ({"time": [datetime.timedelta(k) for k in range(3)]}, [], "'time' has type Duration("),
        ({"time": [1.0, float("inf"), 2.0]}, [], "'time' is inf in data row 2; expected in every"),
        (
            {"time": [datetime.date(2024, 1, k + 1) for k in range(3)]},
            ["--time_format=%Y-%m-%d"],
            "'time' has type Date, but time_format '%Y-%m-%d' is for texts",
        ),
    ],
)
def test_columns_of_other_types_are_refused(raw, capsys, columns, flags, says):
    table = {"user_id": ["u", "v", "w"], "item_id": ["7", "7", "é"], "time": [1, 2, 3], **columns}
    pl.DataFrame(table).write_parquet(raw / "log.parquet")
    given = [*text_flags(raw), "--time_column=time", *flags]
    refused(capsys, raw, *given, log="log.parquet", says=f"log.parquet: column {says}")


def test_a_column_of_lists_holds_no_texts(raw, capsys):
    pl.DataFrame({"item_id": ["7"], "title": [["a"]]}).write_parquet(raw / "items.parquet")
    flags = [*text_flags(raw), f"--items={raw / 'items.parquet'}"]
    refused(capsys, raw, *flags, says="'title' has type List(String), expected texts")


@pytest.mark.parametrize("kind", ["date", "ns", "decimal"])
def test_times_of_a_parquet_table(raw, kind):
    flags = [*text_flags(raw), "--time_column=time", "--split.method=leave_one_out"]
    expected = read_dataset(run(raw, *flags, out="numbers"))
    columns = {
        name: [row[place] for row in ROWS] for place, name in ((0, "user_id"), (1, "item_id"))
    }
    times = pl.Series([row[3] for row in ROWS], dtype=pl.Int64)
    typed = {"date": pl.Date, "ns": pl.Datetime("ns"), "decimal": pl.Decimal(10, 2)}[kind]
    pl.DataFrame({**columns, "time": times.cast(typed)}).write_parquet(raw / "log.parquet")
    found = read_dataset(run(raw, *flags, log="log.parquet"))
    assert found.fingerprint() == expected.fingerprint()


def test_a_split_that_train_would_refuse_is_refused_before_encoding(raw, capsys):
    rows = [("u1", "7", 5, 1), ("u1", "é", 5, 2), ("u2", "7", 5, 3), ("u2", "x y", 5, 4)]
    shop.write_table(raw / "log.csv", HEADER, rows)
    for flags, says in (
        (["--split.method=leave_one_out"], "no user has the 3 interactions that it takes; choose"),
        (
            ["--split.method=global_time", "--split.validation=0.01"],
            "raise split.validation, which",
        ),
    ):
        given = [*text_flags(raw), "--core.users=2", "--time_column=time", *flags]
        refused(capsys, raw, *given, says=says)
        assert not shop.calls
        assert not (raw / "out").exists()


def features_file(raw: Path, kind: str) -> str:
    """Rows 10, 11 of items é and 7, NaN for 007, and a row that no item has."""
    ids = ["é", "7", "007", "gone"]
    rows = np.array([[10, 1], [11, 2], [np.nan, np.nan], [13, 4]], np.float64)
    if kind == "npz":
        np.savez(raw / "f.npz", ids=np.array(ids), features=rows)
        return str(raw / "f.npz")
    if kind in ("json", "txt"):
        np.save(raw / "f.npy", rows.astype(np.float16))
        content = json.dumps(ids) if kind == "json" else "\n".join(ids) + "\n"
        (raw / f"ids.{kind}").write_text(content, encoding="utf-8")
        return f"{raw / 'f.npy'}@{raw / f'ids.{kind}'}"
    lists = [None if np.isnan(row).any() else row.tolist() for row in rows]
    columns = {"f": lists} if kind == "lists" else {"a": rows[:, 0], "b": rows[:, 1], "n": ids}
    pl.DataFrame({"item_id": ids, **columns}).write_parquet(raw / "f.parquet")
    return str(raw / "f.parquet")


@pytest.mark.parametrize("kind", ["npz", "json", "txt", "lists", "columns"])
def test_ready_features(raw, kind):
    out = run(raw, f"--features=[visual={features_file(raw, kind)}]")
    data = read_dataset(out)
    assert data.presence["visual"].tolist() == [False, True, False, True]
    assert data.features["visual"].tolist() == [[0, 0], [11, 2], [0, 0], [10, 1]]
    report = json.loads((out / "prepare.json").read_text())["summary"]["modalities"]["visual"]
    assert report["unused_rows"] == 1
    assert report["reasons"] == {
        "no_row": {"items": 1, "first": ["x y"]},
        "only_nan": {"items": 1, "first": ["007"]},
    }


def test_images_named_by_a_column(raw):
    rows = [("é", "sub/a.png"), ("7", "nowhere.png"), ("x y", ""), ("007", "images/007.png")]
    shop.write_table(raw / "items.csv", ("item_id", "file"), rows)
    (raw / "sub").mkdir()
    Image.new("RGB", (5, 5)).save(raw / "sub" / "a.png")
    flags = [f"--items={raw / 'items.csv'}", "--image.column=file"]
    data = read_dataset(run(raw, *flags, "--image.encoder=tests.shop:file_sizes"))
    assert data.presence["image"].tolist() == [True, False, False, True]


def test_a_filled_folder_is_refused_before_any_work(raw, capsys):
    run(raw, *text_flags(raw))
    before = {path: path.read_bytes() for path in (raw / "out").iterdir()}
    shop.calls.clear()
    refused(capsys, raw, *text_flags(raw), says="not empty, and nothing is overwritten")
    assert not shop.calls
    assert {path: path.read_bytes() for path in (raw / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--user_column=who"], "log.csv: no column 'who'; its columns are user_id, item_id"),
        (["--interactions=nowhere.csv"], "nowhere.csv: no such file"),
        (["--interactions=README.md"], "suffix '.md', expected .csv, .tsv or .parquet"),
        (["--core.users=9"], "nothing is left of 10 interactions"),
        (["--rating_column=rating", "--min_rating=6"], "none is left with rating >= 6.0"),
        (["--rating_column=item_id", "--min_rating=1"], "'é' in data row 3, expected a number"),
        (["--time_column=rating"], "column 'rating' is empty in data row 10"),
        (["--time_column=item_id"], "expected in every row a number or a date in ISO 8601"),
        (["--time_column=time", "--time_format=%d/%m/%Y"], "time_format '%d/%m/%Y' says"),
        (["--time_column=time", "--time_format=%Y %H"], "time_format '%Y %H' cannot be used"),
        (["--split.validation=0"], "split.validation is 0, but train.py chooses"),
        (["--split.validation=0.0001"], "random leaves no validation interactions of 10"),
        (
            ["--items_id_column=price"],
            "none of the 4 items has this content (not in table 4, empty 0)",
        ),
        (["--text.encoder=tests.shop:broken", "--text.model=ints"], "returned int64 of shape"),
        (["--text.encoder=tests.shop:broken", "--text.model=nan"], "NaN or infinite values for 2"),
        (["--text.encoder=tests.shop:broken"], "shape (1, 2) for 2 inputs, expected floats [2, "),
        (["--text.encoder=tests.shop:nothing"], "'tests.shop:nothing' cannot be imported"),
        (["--text.encoder=bert", "--text.model=m"], "expected sentence-transformers, or a fun"),
        (["--features=a=f.csv"], "f.csv: suffix '.csv', expected .npz, .npy or .parquet"),
        (["--features=a=f.npy"], "an .npy file needs a file of ids behind an @"),
        (["--features=a=nowhere.npz"], "nowhere.npz: no such file"),
        (["--image.folder=nowhere", "--image.encoder=tests.shop:file_sizes"], "no such folder"),
    ],
)
def test_what_cannot_be_used_is_refused_with_advice(raw, capsys, flags, says):
    refused(capsys, raw, *text_flags(raw), *flags, says=says)
    assert not (raw / "out").exists()


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("u", "")], "column 'item_id' is empty in 1 rows, the first is data row 12"),
        ([("", "7")], "column 'user_id' is empty in 1 rows, the first is data row 12"),
    ],
)
def test_rows_without_an_id_are_refused(raw, capsys, rows, says):
    more = [(*row, 5, 5) for row in rows]
    shop.write_table(raw / "log.csv", HEADER, [*ROWS, *more])
    refused(capsys, raw, *text_flags(raw), says=says)


def test_an_empty_table_is_refused(raw, capsys):
    shop.write_table(raw / "log.csv", HEADER, [])
    refused(capsys, raw, *text_flags(raw), says="0 rows, of which none is left")


def test_repeated_items_and_images_are_refused(raw, capsys):
    (raw / "images" / "7.png").write_bytes(b"")
    refused(capsys, raw, *image_flags(raw), says="item '7' has 7.JPG and 7.png")
    shop.write_table(raw / "items.csv", ("item_id", "title"), [("7", "a"), ("é", "b"), ("7", "c")])
    refused(capsys, raw, *text_flags(raw), says="item '7' is in data rows 1 and 3")


def test_partly_nan_features_are_refused(raw, capsys):
    np.savez(raw / "f.npz", ids=np.array(["7"]), features=[[1.0, np.nan]])
    refused(capsys, raw, f"--features=a={raw / 'f.npz'}", says="the first is of item '7'")


def test_settings_may_come_from_a_file(raw):
    lines = [f"items: {raw / 'items.csv'}", "text:", "  column: title"]
    (raw / "shop.yaml").write_text("\n".join(lines))
    flags = [f"--config={raw / 'shop.yaml'}", "--text.modality=words"]
    data = read_dataset(run(raw, *flags, "--text.encoder=tests.shop:letters"))
    assert data.modalities == ("words",)


@pytest.mark.parametrize(
    ("users", "flag"),
    [(300, " --sampling.batch_size 128"), (1023, " --sampling.batch_size 256"), (1024, "")],
)
def test_the_train_command_fits_the_number_of_users(users, flag):
    command = train_command("data/shop", {"kept": {"users": users}})
    assert command == f"python train.py --data.path data/shop{flag}"
