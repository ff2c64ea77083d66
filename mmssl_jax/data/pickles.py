"""What a pickle says, without doing it.

A pickle is a program of a stack machine that may call whatever it names, fill the memory by one
large number, or compare tuples that share their parts for years. The interpreter here knows the
instructions that a matrix of numbers needs, none of which calls, allocates or compares anything:
names stay names, and calls and states are recorded.
"""

import pickletools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

MOST_STEPS = 1000  # of one pickle; SciPy's matrices take about 150

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE",
    "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
}  # fmt: skip
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class PickleFault(Exception):
    """A pickle that is malformed, or has an instruction that is not known here."""


class RefusedName(Exception):
    """A pickle that names what is not allowed; the argument is the name."""


class Name(NamedTuple):
    """A class or function that the pickle names; never looked up."""

    text: str


class _Mark(NamedTuple):
    """Where on the stack a tuple or the entries of a dict begin."""


@dataclass(eq=False)
class Recorded:
    """A call that was not made: what of, with which arguments, and the state for its result."""

    name: Name
    args: tuple[Any, ...]
    state: Any = None


def recorded(content: bytes, allowed: Collection[str]) -> Any:
    """The object of a pickle: plain values, tuples, dicts with keys of text, and Recorded calls.

    Raises RefusedName for a name that is not `allowed`, PickleFault for everything else.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if step == MOST_STEPS:
                raise PickleFault(f"more than {MOST_STEPS} instructions")
            if opcode.name == "STOP":
                return stack.pop()
            _run(opcode.name, argument, (stack, memo), allowed)
    except (ValueError, LookupError, TypeError, OverflowError, MemoryError) as error:
        raise PickleFault(" ".join(str(error)[:200].split())) from error
    raise PickleFault("it has no end")


def _run(
    opcode: str, argument: Any, machine: tuple[list[Any], dict[int, Any]], allowed: Collection[str]
) -> None:
    """One instruction."""
    stack, memo = machine
    if opcode in LITERALS:
        stack.append(argument)
    elif opcode in CONSTANTS:
        stack.append(CONSTANTS[opcode])
    elif opcode in TUPLES:
        stack.append(tuple(_taken(stack, len(stack) - TUPLES[opcode])))
    elif opcode in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if argument is None else argument] = stack[-1]
    elif opcode in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif opcode == "MARK":
        stack.append(_Mark())
    elif opcode == "TUPLE":
        stack.append(tuple(_after_mark(stack)))
    elif opcode == "EMPTY_DICT":
        stack.append({})
    elif opcode in ("SETITEM", "SETITEMS"):
        entries = _taken(stack, len(stack) - 2) if opcode == "SETITEM" else _after_mark(stack)
        _set(stack[-1], entries)
    elif opcode == "GLOBAL":
        stack.append(_name(argument.replace(" ", "."), allowed))
    elif opcode == "STACK_GLOBAL":
        module, name = _taken(stack, len(stack) - 2)
        stack.append(_name(f"{_text(module)}.{_text(name)}", allowed))
    elif opcode in ("REDUCE", "NEWOBJ"):
        stack.append(_call(*_taken(stack, len(stack) - 2)))
    elif opcode == "BUILD":
        target, state = stack[-2:]
        if not isinstance(target, Recorded):
            raise PickleFault(f"a state for {type(target).__name__}")
        target.state = state
        stack.pop()
    elif opcode not in ("PROTO", "FRAME"):
        raise PickleFault(f"the instruction {opcode}, which no matrix needs")


def _taken(stack: list[Any], place: int) -> list[Any]:
    """What lies on the stack from a place on, taken off it."""
    if place < 0:
        raise PickleFault("it takes more off the stack than is there")
    parts = stack[place:]
    del stack[place:]
    return parts


def _after_mark(stack: list[Any]) -> list[Any]:
    place = max((k for k, entry in enumerate(stack) if isinstance(entry, _Mark)), default=None)
    if place is None:
        raise PickleFault("a mark is missing")
    return _taken(stack, place)[1:]


def _set(target: Any, entries: list[Any]) -> None:
    keys, values = entries[::2], entries[1::2]
    # Text alone: the hash of a tuple takes for ever where its parts are shared again and again.
    if not isinstance(target, dict) or any(type(key) is not str for key in keys):
        raise PickleFault("entries of something else than a dict with keys of text")
    target.update(zip(keys, values, strict=True))


def _name(text: str, allowed: Collection[str]) -> Name:
    if text not in allowed:
        raise RefusedName(text)
    return Name(text)


def _text(part: Any) -> str:
    if type(part) is not str:
        raise PickleFault(f"a name that is a {type(part).__name__}")
    return part


def _call(name: Any, args: Any) -> Recorded:
    if not isinstance(name, Name) or type(args) is not tuple:
        raise PickleFault(f"a call of {type(name).__name__}")
    return Recorded(name, args)
