"""What Orbax does in threads of its own, and how a process that stops gets along with them."""

import gc
import logging
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any


@contextmanager
def stops_held_back() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM act after what is inside.

    Orbax starts threads, and then tells them what to wait for. Stopped in between it never tells
    them, and the process waits for these threads, minutes, before it ends.
    """
    held: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # signals act there
        yield
        return
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    for number, handler in zip(numbers, before, strict=True):
        if callable(handler):  # else it is ignored, or ends the process at once
            signal.signal(number, lambda number, _: held.append(number))
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            if callable(handler):
                signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])


@contextmanager
def without_leftovers() -> Iterator[None]:
    """When one of Orbax's reads or writes fails, the others go on behind its back, and each that
    fails as well would print a traceback of its own. Here they fail in silence; what was raised is
    not touched."""
    hook, unraisable, log = sys.excepthook, sys.unraisablehook, logging.getLogger("asyncio")
    level = log.level

    def on_error(kind: Any, error: BaseException, trace: TracebackType | None) -> None:
        if not _is_orbax(trace):
            hook(kind, error, trace)

    def on_unraisable(event: Any) -> None:
        code = getattr(event.object, "cr_code", None)  # of a coroutine that nobody waited for
        if not (_is_orbax(event.exc_traceback) or "orbax" in getattr(code, "co_filename", "")):
            unraisable(event)

    sys.excepthook, sys.unraisablehook = on_error, on_unraisable
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except Exception as error:
        traces = [cause.__traceback__ for cause in _causes(error)]
        if any(map(_is_orbax, traces)):
            time.sleep(0.5)  # until they have failed
            # What they left lies in the frames of the errors, and would be found later elsewhere.
            for trace in traces:
                traceback.clear_frames(trace)
            with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
                gc.collect()
        raise
    finally:
        sys.excepthook, sys.unraisablehook = hook, unraisable
        log.setLevel(level)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_orbax(trace: TracebackType | None) -> bool:
    """Whether an error comes from Orbax or from the event loops that it runs."""
    files = [frame.filename for frame in traceback.extract_tb(trace)]
    return any("orbax" in file or "asyncio" in file for file in files)
