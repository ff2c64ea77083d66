"""Ctrl-C and SIGTERM, with which clusters and containers end a process, end a command alike."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM."""


def stop_in_silence() -> None:
    """Lets Ctrl-C end the process as SIGTERM does, at once and without a traceback, until
    `stoppable` knows better: a command imports for seconds before it begins."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else a shell ignores it
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def stoppable(when_stopped: str) -> Iterator[None]:
    """Runs a command's work; Ctrl-C and SIGTERM end it with a message, unless that is empty, and
    status 130 or 143."""
    is_main = threading.current_thread() is threading.main_thread()  # no other may set handlers
    with _handlers() if is_main else nullcontext():
        try:
            yield
        except KeyboardInterrupt as stop:
            if when_stopped:
                print(when_stopped, file=sys.stderr)
            sys.exit(143 if isinstance(stop, Terminated) else 130)


@contextmanager
def _handlers() -> Iterator[None]:
    """SIGTERM and SIGINT raise, and raise again where Python discards what they raise, as it does
    in a callback of the garbage collector, of which JAX has one."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before, hook = {number: signal.getsignal(number) for number in numbers}, sys.unraisablehook
    discarded: list[type[BaseException]] = []

    def on_unraisable(event: Any) -> None:
        if not issubclass(event.exc_type, KeyboardInterrupt):
            hook(event)
            return
        discarded.append(event.exc_type)
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    def again(number: int, frame: object) -> NoReturn:
        raise discarded[-1]

    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGALRM, again)
    if before[signal.SIGINT] is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = on_unraisable
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated
