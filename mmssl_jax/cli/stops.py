"""Ctrl-C and SIGTERM, with which clusters and containers end a process, end a command alike."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM."""


@contextmanager
def stoppable(when_stopped: str) -> Iterator[None]:
    """Runs a command's work; Ctrl-C and SIGTERM end it with a message, unless that is empty, and
    status 130 or 143."""
    is_main = threading.current_thread() is threading.main_thread()  # no other may set handlers
    before = signal.signal(signal.SIGTERM, _terminate) if is_main else None
    try:
        yield
    except KeyboardInterrupt as stop:
        if when_stopped:
            print(when_stopped, file=sys.stderr)
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated
