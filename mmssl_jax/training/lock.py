"""One writer per folder: a lock that ends with the process that holds it."""

import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmssl_jax.training.errors import RunError

LOCK = "lock"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, making the folder if it is missing; raises RunError if another
    process holds it.

    The system drops the lock when its holder ends, however that ends, so the file that stays behind
    locks nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read(20).strip()
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise RunError(
                f"{folder} is in use by {who}: two writers would destroy each other's work. Wait "
                "until it ends, or name another folder"
            ) from error
        except OSError as error:  # some network folders have no locks
            warnings.warn(
                f"{folder}: cannot be locked ({error.strerror}): see to it that no other process "
                "writes there",
                stacklevel=3,
            )
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
