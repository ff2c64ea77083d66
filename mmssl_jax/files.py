"""Files that people name: only regular ones are read, and `~` is the home folder everywhere."""

import stat
from pathlib import Path
from typing import BinaryIO


class NotRegularError(OSError):
    """A pipe, device, socket or folder where a file is expected: reading it may never end."""


def user_path(text: str | Path) -> Path:
    """A path as people write it; a shell leaves the `~` of `--out=~/shop` alone, as YAML does."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # nobody's home: the name stands for itself
        return Path(text)


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file, or of a link to one.

    Raises OSError, of the kind NotRegularError for what is no file; it is not opened then.
    """
    with open_regular(path) as file:
        return file.read()


def open_regular(path: Path) -> BinaryIO:
    """A regular file, or a link to one, opened for reading; raises as `read_regular` does."""
    kind = path.stat().st_mode
    if not stat.S_ISREG(kind):
        raise NotRegularError(0, f"is a {kind_name(kind)}, not a file", str(path))
    return path.open("rb")


def kind_name(mode: int) -> str:
    """What a file's mode says that it is, in words."""
    for test, name in (
        (stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "device"), (stat.S_ISBLK, "device"),
    ):  # fmt: skip
        if test(mode):
            return name
    return "file"
