"""Files that people name: only regular ones are read, and `~` is the home folder everywhere."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


def user_text(text: str) -> str:
    """The same as a text; an empty one, which names nothing, stays empty."""
    return str(user_path(text)) if text.startswith("~") else text


def read_regular(path: Path, most: int | None = None) -> bytes:
    """The bytes of a regular file, or of a link to one.

    most: bytes that are read; a file of more is refused before.
    Raises OSError, of the kind NotRegularError for what is no file; it is not opened then.
    """
    with open_regular(path) as file:
        data = file.read() if most is None else file.read(most + 1)
    if most is not None and len(data) > most:
        size = max(path.stat().st_size, len(data))
        raise OSError(errno.EFBIG, f"{size:,} bytes, and no more than {most:,} are read", str(path))
    return data


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


def check_output_folder(folder: Path) -> None:
    """Raises OSError, with the path and the reason, where no file could be written to a folder that
    is there or is to be made. Makes nothing."""
    above = folder.absolute()
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        what = kind_name(above.stat().st_mode) if above.exists() else "link to nothing"
        raise NotADirectoryError(
            errno.ENOTDIR, f"{above} is a {what}, and a folder is needed there", str(folder)
        )
    try:
        with tempfile.TemporaryFile(dir=above) as trial:
            trial.write(b"-")
    except OSError as error:
        raise OSError(
            error.errno, f"nothing can be written to {above} ({error.strerror})", str(folder)
        ) from error
    # A name that no file system takes is found by asking for it.
    folder.exists()


def check_output_file(file: Path) -> None:
    """Raises OSError, with the path and the reason, where a file could not be written or replaced:
    a folder, a pipe or a device, a file that is protected, or a folder that cannot be written."""
    if os.path.lexists(file):
        kind = os.stat(file).st_mode if file.exists() else os.lstat(file).st_mode
        if not stat.S_ISREG(kind) and file.exists():
            raise NotRegularError(0, f"is a {kind_name(kind)}, and a file is written", str(file))
        if file.exists() and not os.access(file, os.W_OK):
            raise PermissionError(errno.EACCES, "is a file that may not be written", str(file))
    try:
        check_output_folder(file.absolute().parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of the one at `path` when all is written; after a
    power cut, too, the old or the new one is there."""
    unfinished = path.with_name(path.name + ".part")
    with naming(path):
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        _sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Says which file it was where the system only says why it could not be written."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # else it has no place for a name
            error.filename = error.filename or str(path)
        raise


def _sync_folder(folder: Path) -> None:
    """Puts a folder's entries on the disk, without which a rename may be lost."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
