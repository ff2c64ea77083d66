"""What a user can mend is shown as a message, without a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from jax.errors import JaxRuntimeError

from mmssl_jax.checkpoint import CheckpointError
from mmssl_jax.cli.stops import stoppable
from mmssl_jax.config import ConfigError
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.hosts import HostError
from mmssl_jax.messages import clipped
from mmssl_jax.training.errors import RunError

# What the system refuses, such as a full disk, is a user's to mend as well.
USER_ERRORS = (
    ConfigError, DatasetError, RunError, CheckpointError, HostError, OSError, MemoryError,
    JaxRuntimeError,
)  # fmt: skip

GOES_ON = "stopped; the same command goes on where it was"


def leave(error: Exception) -> NoReturn:
    """Prints what a user can mend, and exits with status 2."""
    print(clipped(f"error: {_told(error)}"), file=sys.stderr)
    sys.exit(2)


def _told(error: Exception) -> str:
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return reason if error.filename is None else f"{error.filename}: {reason}"
    words = "RESOURCE_EXHAUSTED", "Out of memory"
    is_memory = isinstance(error, MemoryError) or any(word in str(error) for word in words)
    if isinstance(error, MemoryError | JaxRuntimeError):
        if not is_memory:
            raise error
        return f"not enough memory: make a width, a batch or a block smaller ({error})"
    return str(error)


@contextmanager
def reported(when_stopped: str = "stopped") -> Iterator[None]:
    """Runs a command's work: what a user can mend ends it with a message and status 2, Ctrl-C and
    SIGTERM as `stoppable` says."""
    with stoppable(when_stopped):
        try:
            yield
        except USER_ERRORS as error:
            leave(error)
