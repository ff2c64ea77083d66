"""Where the time of a compiled program goes, by the named scopes of the code it came from."""

import glob
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.backend import get_backend

# Instructions that only run others, whose times are counted there.
CONTAINERS = ("while", "call", "conditional", "async-start", "async-done")
OTHER = "other"


def scope_shares(
    program: str, call: Callable[[], Any], scopes: tuple[str, ...], trace_dir: str | None = None
) -> dict[str, float]:
    """Share of the device's time per scope (the innermost of `scopes` an operation is in).

    Args:
      program: text of the compiled program that `call` runs.
      trace_dir: where the trace stays, for TensorBoard; if None it does not.
    Returns: shares that sum to 1, largest first; empty when the trace has no operation.
    """
    with tempfile.TemporaryDirectory() as temporary:
        directory = trace_dir or temporary
        keep_trace(call, directory)
        traces = glob.glob(f"{directory}/**/*.xplane.pb", recursive=True)
        profile = jax.profiler.ProfileData.from_file(max(traces, key=os.path.getmtime))
    scope_of = scopes_of_instructions(program, scopes)
    spent: dict[str, float] = defaultdict(float)
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in scope_of:
                    spent[scope_of[event.name]] += event.duration_ns
    total = sum(spent.values())
    if not total:
        return {}
    return {scope: time / total for scope, time in sorted(spent.items(), key=lambda s: -s[1])}


def keep_trace(call: Callable[[], Any], directory: str) -> None:
    """Runs `call` and leaves its trace in a folder, for TensorBoard."""
    with jax.profiler.trace(directory):
        jax.block_until_ready(call())


def compiled_program(scope: str) -> str:
    """Text of the program in this process whose operations lie in `scope`; "" if there is none."""
    programs = get_backend().live_executables()
    texts = (module.to_string() for one in programs for module in one.hlo_modules())
    return next((text for text in texts if f"/{scope}/" in text), "")


class Instruction(NamedTuple):
    """What a line of a compiled program says."""

    computation: str
    opcode: str
    path: str
    operands: tuple[str, ...]
    calls: tuple[str, ...]


def instructions(program: str) -> dict[str, Instruction]:
    """{name: instruction} of a compiled program's text."""
    found, computation = {}, ""
    for line in program.splitlines():
        header = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            computation = header.group(1)
        named = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = .*? ?([a-z][\w\-]*)\((.*)$", line)
        if not named:
            continue
        name, opcode, rest = named.groups()
        operands, _, attributes = rest.partition(")")
        path = re.search(r'op_name="([^";]+)', attributes)
        calls = re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)", attributes)
        branches = re.search(r"branch_computations=\{([^}]*)\}", attributes)
        if branches:
            calls += re.findall(r"[\w.\-]+", branches.group(1))
        found[name] = Instruction(
            computation,
            opcode,
            path.group(1) if path else "",
            tuple(re.findall(r"%([\w.\-]+)", operands)),
            tuple(calls),
        )
    return found


def scopes_of_instructions(program: str, scopes: tuple[str, ...]) -> dict[str, str]:
    """{instruction: scope} of all instructions that do work of their own.

    Copies and the like carry no path: they belong to the scope of what they are part of (the
    computation that a fusion calls, the loop around them), else of what uses them or they use.
    """
    program_of = instructions(program)
    scope = {name: scope_of_path(one.path, scopes) for name, one in program_of.items()}
    inside: dict[str, list[str]] = defaultdict(list)
    users: dict[str, list[str]] = defaultdict(list)
    caller: dict[str, str] = {}
    for name, one in program_of.items():
        inside[one.computation].append(name)
        for operand in one.operands:
            users[operand].append(name)
        for computation in one.calls:
            caller[computation] = name
    order = list(program_of)
    for _ in range(3):
        # Backwards, then forwards, so that chains of copies are walked in one go.
        for name in (*reversed(order), *order):
            if scope[name]:
                continue
            one = program_of[name]
            parts = [p for c in one.calls for p in inside[c]] if one.opcode == "fusion" else []
            around = [caller[one.computation]] if one.computation in caller else []
            near = (*parts, *around, *users[name], *one.operands)
            scope[name] = next((scope[n] for n in near if scope.get(n)), "")
    return {
        name: scope[name] or OTHER
        for name, one in program_of.items()
        if one.opcode not in CONTAINERS
    }


def scope_of_path(path: str, scopes: tuple[str, ...]) -> str:
    """The innermost of `scopes` in an operation's path, marked where it is the scope's gradient.

    A transposed part before or at the scope makes it a gradient. Behind it, it does so only for a
    scope that is not itself being differentiated: a gradient penalty has gradients in its value.
    """
    parts = path.split("/")
    for index in reversed(range(len(parts))):
        name = re.sub(r"^(?:\w+\()*|\)+$", "", parts[index])
        if name not in scopes:
            continue
        until = "/".join(parts[: index + 1])
        in_gradient = "transpose(" in until or ("jvp(" not in until and "transpose(" in path)
        return f"{name} (gradient)" if in_gradient else name
    return ""
