"""Hosts: processes, joined by jax.distributed, that train one run on the devices of all.

Every host runs the same programs in the same order. What could differ between them, such as what a
clock says or whether a file is there, the primary decides and tells the others. It alone writes and
prints.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from mmssl_jax.config import AUTO, ConfigError, ParallelConfig

T = TypeVar("T")

# A host that has sent nothing for so long is taken for dead, and the others end.
HEARTBEAT_SECONDS = 30
# What JAX, its collectives and Orbax say when another host has ended.
LOST = (
    "gloo", "nccl", "coordination", "barrier", "heartbeat", "connection closed", "connection reset",
    "socket closed", "deadline_exceeded",
)  # fmt: skip


class HostError(RuntimeError):
    """Hosts that cannot join, do not agree, or have lost one of them."""


def join(parallel: ParallelConfig) -> None:
    """Joins the hosts that the settings name, unless the caller has called
    jax.distributed.initialize. To be called before anything is computed.

    Raises ConfigError for settings that do not fit together or what is joined already, or where JAX
    has been used already; HostError where the others cannot be reached.
    """
    parallel.check()
    if jax.distributed.is_initialized():
        _require_as_joined(parallel)
        return
    if not parallel.coordinator:
        return
    # Its handler of SIGTERM would take the place of the one that ends a command.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    place: dict[str, Any] = {}
    if parallel.coordinator != AUTO:
        place = {
            "coordinator_address": parallel.coordinator,
            "num_processes": parallel.processes,
            "process_id": parallel.process,
        }
    try:
        jax.distributed.initialize(**place, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except ValueError as error:
        raise ConfigError(
            f"parallel.coordinator is {parallel.coordinator}, but JAX finds no cluster that it "
            f"knows ({error}): give --parallel.coordinator HOST:PORT, --parallel.process and "
            "--parallel.processes"
        ) from error
    except RuntimeError as error:
        if "before" in str(error):
            raise ConfigError(
                "parallel.coordinator is given, but JAX has been used in this process already: "
                "join the hosts first, with jax.distributed.initialize or mmssl_jax.hosts.join"
            ) from error
        raise HostError(
            f"process {parallel.process} of {parallel.processes} cannot join the others at "
            f"{parallel.coordinator} ({_first_line(error)}): start all of them within five "
            "minutes, process 0 on that host, with a port that is free there and open to the others"
        ) from error


def _require_as_joined(parallel: ParallelConfig) -> None:
    if parallel.coordinator in ("", AUTO):
        return
    asked, found = (parallel.process, parallel.processes), (jax.process_index(), count())
    if asked != found:
        raise ConfigError(
            f"parallel.process and parallel.processes are {asked[0]} and {asked[1]}, but "
            f"jax.distributed was started as process {found[0]} of {found[1]}: leave them out"
        )


def count() -> int:
    """How many hosts are joined; 1 where none are."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_primary() -> bool:
    """Whether this is the host that writes and prints, process 0, as a lone one is."""
    return count() == 1 or jax.process_index() == 0


def everybody() -> set[int]:
    """The numbers of all hosts."""
    return set(range(count()))


def barrier(name: str) -> None:
    """Waits until all hosts are here."""
    if count() > 1:
        multihost_utils.sync_global_devices(name)


def from_primary(decide: Callable[[], T]) -> T:
    """What the primary decides, on all hosts; only there `decide` is called.

    decide: its result is passed on as JSON.
    Raises what it raises on the primary, and HostError with the message on the others.
    """
    if count() == 1:
        return decide()
    told: dict[str, Any] = {}
    if not is_primary():
        told = _broadcast({})
        if "error" in told:
            raise HostError(f"process 0 has ended: {told['error']}")
        decided: T = told["value"]
        return decided
    try:
        told = {"value": decide()}
    except BaseException as error:
        _broadcast({"error": str(error) or type(error).__name__})
        raise
    _broadcast(told)
    own: T = told["value"]
    return own


def agreed(own: T) -> T:
    """The primary's value on all hosts, of what JSON holds."""
    return from_primary(lambda: own)


def _broadcast(told: dict[str, Any]) -> dict[str, Any]:
    """The primary's object on all hosts."""
    data = np.frombuffer(json.dumps(told).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = data if is_primary() else np.zeros(length, np.uint8)
    sent = np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8)
    found: dict[str, Any] = json.loads(sent.tobytes())
    return found


def require_same(told: Mapping[str, Any]) -> None:
    """Raises HostError on all hosts unless each is told what the primary is.

    told: {what it is: its value}, of what JSON holds.
    """
    if count() == 1:
        return
    own: dict[str, Any] = json.loads(json.dumps(dict(told)))
    first = from_primary(lambda: own)
    lines = [
        f"{name}: {first.get(name)} there, {own.get(name)} here"
        for name in {**first, **own}
        if first.get(name) != own.get(name)
    ]
    differ = np.asarray(multihost_utils.process_allgather(np.asarray(bool(lines)))).reshape(-1)
    if lines:
        raise HostError(
            f"process {jax.process_index()} has not what process 0 has\n  "
            + "\n  ".join(lines[:20])
            + "\nGive all hosts the same settings and the same data"
        )
    if differ.any():
        others = ", ".join(map(str, np.flatnonzero(differ).tolist()))
        raise HostError(
            f"process {others} has other settings or other data than process 0, and says which: "
            "give all hosts the same"
        )


def require_one(parallel: ParallelConfig, what: str) -> None:
    """Raises ConfigError where several hosts are to do what one does. what: such as "a search"."""
    if parallel.coordinator or count() > 1:
        raise ConfigError(
            f"{what} runs on one host: several train a single run alone, by train.py or fit; "
            "leave parallel.coordinator out"
        )


@contextmanager
def naming_lost_hosts(again: str) -> Iterator[None]:
    """Says how to go on when another host has ended: what JAX and Orbax raise then becomes a
    HostError. Where JAX ends this process instead, as it does without a word to Python, another one
    prints the message.

    again: the command that goes on.
    """
    if count() == 1:
        yield
        return
    advice = f"What was saved is kept: start all hosts again with --resume, as: {again}"
    with _last_words(f"error: one of the hosts has ended, or cannot be reached. {advice}"):
        try:
            yield
        except Exception as error:
            if isinstance(error, HostError) or not _is_loss(error):
                raise
            reason = _first_line(_root(error))
            raise HostError(
                f"another host has ended, or cannot be reached ({reason}). {advice}"
            ) from error


# Reads until the process that started it closes the pipe or ends, which it says beforehand.
_LISTEN = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"


@contextmanager
def _last_words(message: str) -> Iterator[None]:
    """Has a message printed if this process ends inside without a chance to do so itself."""
    listener = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _LISTEN, message],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
    )
    try:
        yield
    finally:
        listener.communicate(b"ended")


def _is_loss(error: BaseException) -> bool:
    found: BaseException | None = error
    while found is not None:
        if any(word in str(found).lower() for word in LOST):
            return True
        found = found.__cause__ or found.__context__
    return False


def _root(error: BaseException) -> BaseException:
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Ends a host's process at once when its work ends before its time, by an error or a signal:
    JAX would first wait for the other hosts, which wait for this one."""
    try:
        yield
    except BaseException as end:
        if count() == 1:
            raise
        status = 1
        if isinstance(end, SystemExit):
            status = end.code if isinstance(end.code, int) else 1 if end.code else 0
        else:
            traceback.print_exception(end)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def make_folder(folder: Path) -> None:
    """Makes a folder that all hosts see, once."""
    from_primary(lambda: folder.mkdir(parents=True, exist_ok=True))
