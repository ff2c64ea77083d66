"""What `python -m mmssl_jax.prepare` says of malformed tables and ids, and what it reads."""

import json
import os

import pytest

from tests.malformed import (
    ITEMS,
    LOG,
    TEXT,
    VISUAL,
    Case,
    Content,
    assert_told,
    parquet,
    prepared,
    written,
)

pytest.importorskip("polars", reason="needs the extra `tables`")
pytestmark = pytest.mark.extras

TIMED = [*VISUAL, "--time_column=time", "--split.method=leave_one_out"]
RATED = [*VISUAL, "--rating_column=rating", "--min_rating=1"]


def log_with(*rows: str) -> dict[str, Content]:
    return {"log.csv": LOG + "".join(f"{row}\n" for row in rows)}


def log_tsv(text: str) -> dict[str, Content]:
    return {"log.tsv": text.replace("|", "\t")}


TSV = ["--interactions={}/log.tsv", *VISUAL]
PARQUET = ["--interactions={}/log.parquet", *VISUAL]
USERS = {"user_id": ["u", "u", "v"], "item_id": ["a", "b", "c"]}

TABLES: dict[str, Case] = {
    # Rows
    "short row": (log_with("u4,a,5"), VISUAL, "log.csv: data row 7 has 3 fields, expected 4"),
    "long row": (log_with("u4,a,5,1,1"), VISUAL, "log.csv: data row 7 has 5 fields, expected 4"),
    "separator in a text": (log_with("u4,a,5,1, indeed"), VISUAL, "data row 7 has 5 fields"),
    "blanks in a row": (log_with("   "), VISUAL, "data row 7 has 1 fields"),
    "open quotation mark": (log_with('"u4,a,5,1'), VISUAL, "log.csv: line 8 or one before"),
    "text behind a quotation mark": (log_with('"u"4,a,5,1'), VISUAL, "--table.quotes none"),
    "rows between two quotation marks": (
        log_with('u4,a,5,"good', 'u5,b,4,"bad'), VISUAL, "not closed as it should be",
    ),
    "line break in a tsv": (
        log_tsv('user_id|item_id|t\nu|a|"x\ny"\n'), TSV, "log.tsv: data row 2 has 1 fields",
    ),
    "quoted ids in a tsv": (
        log_tsv('user_id|item_id\n"u"|"a"\n'), TSV, "log.tsv: column 'user_id' is '\"u\"' in",
    ),
    "quoted header in a tsv": (
        log_tsv('"user_id"|"item_id"\n"u"|"a"\n'), TSV, "read with --table.quotes double",
    ),
    "lone carriage return": (log_tsv("user_id|item_id\nu|a\rb\n"), TSV, "data row 2 has 1 fields"),
    "semicolons": (
        {"log.csv": LOG.replace(",", ";")}, VISUAL, "read with --table.separator ';'",
    ),
    "tabs in a csv": ({"log.csv": LOG.replace(",", "\t")}, VISUAL, "--table.separator '\\t'"),
    "bars": ({"log.csv": LOG.replace(",", "|")}, VISUAL, "read with --table.separator '|'"),
    "missing header": ({"log.csv": LOG.partition("\n")[2]}, VISUAL, "names from --columns"),
    "names beside a header": (
        {}, [*VISUAL, "--columns=[user_id,item_id,rating,time]"], "its first line is a header",
    ),
    "too few names": ({}, [*VISUAL, "--columns=[user_id,item_id]"], "data row 1 has 4 fields"),
    "names of a parquet": (
        {"log.parquet": parquet(**USERS)}, [*PARQUET, "--columns=[user_id,item_id]"],
        "log.parquet: a Parquet table names its columns itself",
    ),
    "repeated name": (
        {"log.csv": "user_id,item_id,item_id\nu,a,b\n"}, VISUAL,
        "log.csv: columns 2 and 3 are both named 'item_id'",
    ),
    "blanks in the header": (
        {"log.csv": LOG.replace(",item_id", ", item_id")}, VISUAL, "log.csv: no column 'item_id'",
    ),
    "nothing": ({"log.csv": b""}, VISUAL, "log.csv: an empty file"),
    "only a header": ({"log.csv": LOG.partition("\n")[0]}, VISUAL, "0 rows, of which none is left"),
    "only blank lines": ({"log.csv": "\n\n\n"}, VISUAL, "log.csv: an empty file"),
    "many columns": (
        {"log.csv": ",".join(f"c{k}" for k in range(5000)) + "\n"}, VISUAL, "and 4988 more",
    ),
    "a huge name": ({"log.csv": "x" * 100_000 + ",y\n"}, VISUAL, "log.csv: no column 'user_id'"),
    "control characters": (
        {"log.csv": "\x1b[31mred\x07,y\nu,a\n"}, VISUAL, "log.csv: no column 'user_id'",
    ),
    "a field without an end": (
        {"log.csv": LOG + '"' + "x" * (2**24 + 9)}, VISUAL, "larger than field limit",
    ),
    # Encodings and other files
    "latin-1": ({"log.csv": f"{LOG}é,a,5,7\n".encode("latin-1")}, VISUAL, "byte 0xe9 in line 8"),
    "utf-16": ({"log.csv": LOG.encode("utf-16")}, VISUAL, "say --table.encoding utf-16"),
    "utf-16 without its mark": ({"log.csv": LOG.encode("utf-16-le")}, VISUAL, "no column 'user_id"),
    "another encoding": (
        {"log.csv": f"{LOG}é,a,5,7\n".encode()}, [*VISUAL, "--table.encoding=ascii"],
        "log.csv: byte 0xc3 in line 8 is not ascii",
    ),
    "an encoding that names no place": (
        {}, [*VISUAL, "--table.encoding=undefined"], "log.csv: is not undefined",
    ),
    "half of utf-16": (
        {"log.csv": LOG.encode("utf-16")[:-1]}, [*VISUAL, "--table.encoding=utf-16"],
        "log.csv: ",
    ),
    "no encoding": ({}, [*VISUAL, "--table.encoding=klingon"], "table.encoding is 'klingon'"),
    "no encoding of texts": ({}, [*VISUAL, "--table.encoding=base64"], "table.encoding is 'base64"),
    "a long separator": ({}, [*VISUAL, "--table.separator=::"], "table.separator is '::'"),
    "a mark as separator": ({}, [*VISUAL, '--table.separator="'], "table.separator is '\"'"),
    "gzip": ({"log.csv": b"\x1f\x8b\x08\0" + bytes(40)}, VISUAL, "log.csv: is compressed by gzip"),
    "a spreadsheet": ({"log.csv": b"PK\x03\x04" + bytes(40)}, VISUAL, "log.csv: is a zip archive"),
    "an old spreadsheet": ({"log.csv": b"\xd0\xcf\x11\xe0" + bytes(40)}, VISUAL, "a spreadsheet"),
    "a parquet that is named csv": ({"log.csv": parquet(**USERS)}, VISUAL, "name it .parquet"),
    "a csv that is named parquet": ({"log.parquet": LOG}, PARQUET, "log.parquet: cannot be read"),
    "half a parquet": ({"log.parquet": parquet(**USERS)[:200]}, PARQUET, "log.parquet: cannot be"),
    "an empty parquet": ({"log.parquet": b""}, PARQUET, "log.parquet: cannot be read"),
    "another suffix": (
        {"log.dat": LOG}, ["--interactions={}/log.dat", *VISUAL], "log.dat: suffix '.dat', expecte",
    ),
    "a folder": ({}, ["--interactions={}", *VISUAL], "is a folder, expected a file"),
    "a pipe": (
        {"p.csv": os.mkfifo}, ["--interactions={}/p.csv", *VISUAL], "p.csv: is a pipe, expected a",
    ),
    "a link to a device": (
        {"z.csv": lambda path: path.symlink_to("/dev/zero")},
        ["--interactions={}/z.csv", *VISUAL], "z.csv: is a device, expected a file",
    ),
    "a link to nothing": (
        {"l.csv": lambda path: path.symlink_to("nowhere")},
        ["--interactions={}/l.csv", *VISUAL], "l.csv: no such file",
    ),
    "a link to itself": (
        {"l.csv": lambda path: path.symlink_to(path)},
        ["--interactions={}/l.csv", *VISUAL], "l.csv: cannot be read",
    ),
    "a name that is too long": ({}, [f"--interactions={'x' * 5000}.csv", *VISUAL], ": cannot be"),
    "a glob": ({}, ["--interactions={}/*.csv", *VISUAL], "/*.csv: no such file"),
    # Ids
    "no id": (log_with(",a,5,1"), VISUAL, "'user_id' is empty in 1 rows, the first is data row 7"),
    "a blank id": (log_with("u4, ,5,1"), VISUAL, "'item_id' is ' ' in data row 7, which has blank"),
    "a blank behind an id": (log_with("u1 ,a,5,1"), VISUAL, "'user_id' is 'u1 ' in data row 7"),
    "NUL": (log_with("u4\0\0,a,5,1"), VISUAL, "'u4\\x00\\x00' in data row 7, which holds a NUL"),
    "nan": (log_with("nan,a,5,1"), VISUAL, "'nan' in data row 7, which is how programs write"),
    "NA": (log_with("u4,NA,5,1"), VISUAL, "column 'item_id' is 'NA' in data row 7"),
    "a number of a spreadsheet": (log_with("1.23E+12,a,5,1"), VISUAL, "'1.23E+12' in data row 7"),
    "a long id": (log_with(f"{'u' * 10**6},a,5,1"), VISUAL, "longer than 1,000 characters"),
    "lists of ids": (
        {"log.parquet": parquet(user_id=[["u"]], item_id=["a"])}, PARQUET, "has type List(String)",
    ),
    "structs of ids": (
        {"log.parquet": parquet(user_id=[{f"k{k}": k for k in range(3000)}], item_id=["a"])},
        PARQUET, "log.parquet: column 'user_id'",
    ),
    # Numbers
    "thousands": (log_with('u4,a,"1,234",1'), RATED, "'rating' is '1,234' in data row 7, expected"),
    "a decimal comma": (log_with('u4,a,"3,5",1'), RATED, "'rating' is '3,5' in data row 7"),
    "an infinite rating": (log_with("u4,a,inf,1"), RATED, "'rating' is 'inf' in data row 7"),
    "a rating beyond floats": (log_with("u4,a,1e999,1"), RATED, "'rating' is '1e999' in data row"),
    "NA as a rating": (log_with("u4,a,NA,1"), RATED, "'rating' is 'NA' in data row 7"),
    "underscores": (log_with("u4,a,1_0,1"), RATED, "'rating' is '1_0' in data row 7"),
    "no time": (log_with("u4,a,5,"), TIMED, "column 'time' is empty in data row 7"),
    "thousands in a time": (log_with('u4,a,5,"1,600"'), TIMED, "'time' is '1,600' in data row 7"),
    "a long text as a time": (log_with("u4,a,5," + "x" * 5000), TIMED, "'time' is 'xxxx"),
    "lists of ratings": (
        {"log.parquet": parquet(**USERS, rating=[[1], [2], [3]])},
        [*PARQUET, *RATED[1:]], "column 'rating' has type List(Int64), expected numbers",
    ),
    # The items table
    "a repeated item": ({"items.csv": ITEMS + "a,x\n"}, TEXT, "'a' is in data rows 1 and 4"),
    "a ragged items table": ({"items.csv": ITEMS + "d,x,y\n"}, TEXT, "items.csv: data row 4 has 3"),
    "an item without an id": ({"items.csv": ITEMS + ",x\n"}, TEXT, "items.csv: column 'item_id' i"),
    "other items": ({"items.csv": "item_id,title\nx,abba\n"}, TEXT, "none of the 3 items has this"),
    "no texts": ({"items.csv": "item_id,title\na,\nb,  \n"}, TEXT, "empty 2"),
    "an items table without a header": (
        {"items.csv": ITEMS.partition("\n")[2]}, TEXT, "names from --columns or --items_columns",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES.values(), ids=TABLES)
def test_malformed_tables_are_told_in_one_short_message(tmp_path, capfd, case):
    assert_told(tmp_path, capfd, case)


def test_lines_within_fields_are_told(tmp_path, capsys):
    written(tmp_path, {"log.csv": f'{LOG}u4,a,5,"7\nu5,b,4,8"\n'})
    prepared(tmp_path, VISUAL)
    assert "log.csv: 1 line breaks lie within fields" in capsys.readouterr().out


GOOD = {
    "semicolons": ({"log.csv": LOG.replace(",", ";")}, ["--table.separator=;"]),
    "tabs": ({"log.csv": LOG.replace(",", "\t")}, ["--table.separator=\\t"]),
    "no header": (
        {"log.csv": LOG.partition("\n")[2]}, ["--columns=[user_id, item_id, rating, time]"],
    ),
    "carriage returns": ({"log.csv": LOG.replace("\n", "\r")}, []),
    "Windows": ({"log.csv": b"\xef\xbb\xbf" + LOG.replace("\n", "\r\n").encode()}, []),
    "mixed line ends": ({"log.csv": LOG.replace("\n", "\r", 2).replace("\n", "\r\n", 2)}, []),
    "blank lines": ({"log.csv": LOG.replace("\n", "\n\n")}, []),
    "no last line end": ({"log.csv": LOG.rstrip()}, []),
    "utf-16": ({"log.csv": LOG.encode("utf-16")}, ["--table.encoding=utf-16"]),
    "all quoted": (
        {"log.csv": "\n".join(f'"{row}"'.replace(",", '","') for row in LOG.split())}, [],
    ),
    "quoted tsv": (
        {"log.tsv": "\n".join(f'"{row}"'.replace(",", '"\t"') for row in LOG.split())},
        ["--interactions={}/log.tsv", "--table.quotes=double"],
    ),
    "unused columns of one name": (
        {"log.csv": "\n".join(f"{row},{row[:1]},{row[:1]}" for row in LOG.split())}, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "flags"), GOOD.values(), ids=GOOD)
def test_tables_as_people_have_them_say_the_same(tmp_path, files, flags):
    written(tmp_path, files)
    out = prepared(tmp_path, [*TIMED, *RATED, *flags])
    read = json.loads((out / "prepare.json").read_text())["summary"]["read"]
    assert (read["rows"], read["interactions"]) == (6, 6)
    assert json.loads((out / "user_ids.json").read_text()) == ["u1", "u2", "u3"]
    assert json.loads((out / "train.json").read_text()) == {"0": [0], "1": [0], "2": [1]}
