"""The settings file of `mmssl_jax.prepare`: what it may hold, and what is said of the rest."""

import os
from pathlib import Path

import pytest

from mmssl_jax.cli.prepare import main, prepare_parser

FLAGS = ["--interactions=log.csv", "--out=out", "--features=v=v.npz"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("core:\n  users: 1\ncore:\n  items: 1\n", "line 3: 'core' stands there a second time"),
        ("text:\n  class_path: os.system\n", "line 2: 'class_path' would name code to load"),
        ("out: !!python/object/apply:os.system [ls]\n", "line 1: "),
        ("a: &a [x, x]\nout: *a\n", "line 1: '&a' is an anchor"),
        (f"text: {'[' * 3000}{']' * 3000}\n", "line 1: more than"),
        ("split:\n  validation: .nan\n", "line 2: '.nan' is no finite number"),
        ("split:\n  validation: 2\n", "split.validation"),
        ("core: 3\n", "core"),
        ("splt:\n  seed: 1\n", "splt"),
        ("- 1\n", "holds a list"),
        ("", "holds nothing"),
        ("text: [\n", "not YAML: line "),
        (b"user_column: caf\xe9\n", "byte 0xe9 is not UTF-8"),
        (os.mkfifo, "is a pipe, not a file"),
        (Path.mkdir, "is a folder, not a file"),
        (lambda path: None, "No such file"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_told_with_its_place(tmp_path, capsys, text, says):
    path = tmp_path / "p.yaml"
    if callable(text):
        text(path)
    else:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(SystemExit) as left:
        main([*FLAGS, f"--config={path}"])
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert says in said
    assert len(said.encode()) < 2048


def test_an_empty_section_changes_nothing_and_texts_stay_texts(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "core:\nsplit:\n  # seed: 3\nuser_column: 2024\nitem_column: off\n"
        "columns: [on, 007]\ntable:\n  separator: ';'\n  quotes: none\n"
    )
    parser = prepare_parser()
    plain, found = (parser.parse_args([*FLAGS, *more]) for more in ([], [f"--config={path}"]))
    assert (found.core, found.split) == (plain.core, plain.split)
    assert (found.user_column, found.item_column, found.columns) == ("2024", "off", ["on", "007"])
    assert (found.table.separator, found.table.quotes) == (";", "none")


@pytest.mark.parametrize("separator", [";", "|", ":", "\\t", "\t", "#", "-", "!", "&", "*", "'"])
def test_any_separator_may_be_a_flag(separator):
    given = prepare_parser().parse_args([*FLAGS, f"--table.separator={separator}"])
    assert given.table.separator == separator


def test_a_settings_file_names_no_function_to_run(tmp_path, capsys):
    (tmp_path / "shop.yaml").write_text("text:\n  encoder: json:loads\n")
    with pytest.raises(SystemExit) as end:
        main([*FLAGS, f"--config={tmp_path / 'shop.yaml'}"])
    assert end.value.code == 2
    assert (
        "may not name code to run: give the function with --text.encoder" in capsys.readouterr().err
    )
