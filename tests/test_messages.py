"""What messages show of foreign content."""

import os

import pytest

from mmssl_jax.files import NotRegularError, read_regular, user_path
from mmssl_jax.messages import LONGEST, clipped, shown


def nested(depth):
    value = 1
    for _ in range(depth):
        value = (value, value)
    return value


@pytest.mark.parametrize(
    "value",
    ["x" * 10**7, list(range(10**6)), {str(i): i for i in range(10**6)}, nested(40), 10**5000],
    ids=["text", "list", "object", "shared", "number"],
)
def test_a_value_of_any_size_is_shown_short(value):
    assert len(shown(value)) < 400


def test_control_characters_are_escaped():
    assert shown("a\x1b[31m\n") == r"'a\x1b[31m\n'"
    assert clipped("a\x1b[2J\rb\nc\u202e") == "a\\x1b[2J\\rb\nc\\u202e"


def test_a_long_message_keeps_its_beginning_and_end():
    text = clipped("begin " + "x" * 10**6 + " end")
    assert len(text) <= LONGEST
    assert text.startswith("begin xx")
    assert text.endswith("xx end")
    assert "characters left out" in text


def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"a")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "linked").symlink_to(tmp_path / "pipe")
    assert read_regular(tmp_path / "link") == b"a"
    for name, kind in (("pipe", "pipe"), ("linked", "pipe"), (".", "folder")):
        with pytest.raises(NotRegularError, match=f"is a {kind}, not a file"):
            read_regular(tmp_path / name)
    with pytest.raises(NotRegularError, match="is a device"):
        read_regular(tmp_path.__class__("/dev/zero"))


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/shop") == tmp_path / "shop"
    assert str(user_path("~nobody-of-this-name/x")) == "~nobody-of-this-name/x"
