"""What every benchmark does alike: medians, matmul rate, FLOPs, memory, shares of named scopes."""

import glob
import json
import os
import platform
import re
import resource
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from mmssl_jax.reporting.environment import environment

# Instructions that only run others, whose times are counted there.
CONTAINERS = ("while", "call", "conditional", "end: ")


def hardware() -> dict[str, Any]:
    """Machine, versions, date and commit of a measurement."""
    return {
        **environment(jax.local_devices()),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1) if found else platform.processor()


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def timed_ms(call: Callable[[], Any]) -> float:
    """Milliseconds of one call, until its results are there."""
    started = time.perf_counter()
    jax.block_until_ready(call())
    return (time.perf_counter() - started) * 1e3


def median_ms(call: Callable[[], Any], repeats: int, warm_up: int = 1) -> float:
    """Median milliseconds of a call, after `warm_up` calls that do not count."""
    for _ in range(warm_up):
        timed_ms(call)
    return median(timed_ms(call) for _ in range(repeats))


def peak_rss_mib() -> float:
    """Greatest resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if platform.system() == "Darwin" else peak / 2**10


def matmul_rate(repeats: int = 5) -> float:
    """Best float32 matmul rate of one device over some sizes, FLOP per second."""
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="float32"))
    rates = []
    for m, k, n in ((1024, 1024, 1024), (2048, 2048, 2048), (1024, 6710, 1677)):
        a, b = jnp.ones((m, k)), jnp.ones((k, n))
        times = [timed_ms(lambda a=a, b=b: product(a, b)) for _ in range(repeats + 1)]
        rates.append(2e3 * m * k * n / min(times))
    return max(rates)


def matmul_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """FLOPs of all matrix products of a traced function, scans multiplied by their length.

    A branch counts as its dearest side, the body of a loop of unknown length as one pass.
    """
    closed: ClosedJaxpr = jax.make_jaxpr(function)(*arguments)
    return _jaxpr_flops(closed.jaxpr)


def _jaxpr_flops(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = 1
            for axis in contracted:
                inner *= shape[axis]
            total += 2 * inner * equation.outvars[0].aval.size
        inner_flops = [_jaxpr_flops(inner) for inner in _inner_jaxprs(equation.params)]
        if equation.primitive.name == "cond":
            total += max(inner_flops, default=0)
        else:
            total += sum(inner_flops) * equation.params.get("length", 1)
    return total


def _inner_jaxprs(params: dict[str, Any]) -> list[Jaxpr]:
    found = []
    for value in params.values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            if isinstance(entry, ClosedJaxpr):
                found.append(entry.jaxpr)
            elif isinstance(entry, Jaxpr):
                found.append(entry)
    return found


def xla_flops(compiled: jax.stages.Compiled) -> float:
    """All FLOPs by XLA's own cost analysis; the body of a loop counts once."""
    analysis = compiled.cost_analysis()
    return float(analysis.get("flops", 0.0)) if analysis else 0.0


def scope_shares(
    compiled: jax.stages.Compiled,
    call: Callable[[], Any],
    scopes: tuple[str, ...],
    trace_dir: str | None = None,
) -> dict[str, float]:
    """Share of the device's time per named scope (the innermost of `scopes` an operation is in).

    `call` runs `compiled`; the trace stays in `trace_dir` if that is given, for TensorBoard.
    """
    with tempfile.TemporaryDirectory() as temporary:
        directory = trace_dir or temporary
        with jax.profiler.trace(directory):
            jax.block_until_ready(call())
        traces = glob.glob(f"{directory}/**/*.xplane.pb", recursive=True)
        profile = jax.profiler.ProfileData.from_file(max(traces, key=os.path.getmtime))
    scope_of = _scopes_of_instructions(compiled.as_text() or "", scopes)
    spent: dict[str, float] = defaultdict(float)
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in scope_of and not event.name.startswith(CONTAINERS):
                    spent[scope_of[event.name]] += event.duration_ns
    total = sum(spent.values())
    if not total:
        return {}
    return {scope: time / total for scope, time in sorted(spent.items(), key=lambda s: -s[1])}


def _scopes_of_instructions(hlo: str, scopes: tuple[str, ...]) -> dict[str, str]:
    """{instruction: scope} from the metadata of a compiled module's text.

    A fusion without metadata of its own has that of the computation it calls.
    """
    path_of: dict[str, str] = {}
    of_computation: dict[str, str] = {}
    calls: dict[str, str] = {}
    computation = ""
    for line in hlo.splitlines():
        header = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            computation = header.group(1)
        named = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
        if not named:
            continue
        path = re.search(r'op_name="([^"]+)"', line)
        called = re.search(r"calls=%?([\w.\-]+)", line)
        path_of[named.group(1)] = path.group(1) if path else ""
        if path and len(path.group(1)) > len(of_computation.get(computation, "")):
            of_computation[computation] = path.group(1)
        if called:
            calls[named.group(1)] = called.group(1)
    for name, path in path_of.items():
        if not _scope(path, scopes) and name in calls:
            path_of[name] = of_computation.get(calls[name], path)
    return {name: _scope(path, scopes) or "other" for name, path in path_of.items()}


def _scope(path: str, scopes: tuple[str, ...]) -> str:
    """The innermost of `scopes` in an operation's path, with `gradient of` where transposed."""
    for part in reversed(path.split("/")):
        name = re.sub(r"^(?:\w+\()*|\)+$", "", part)
        if name in scopes:
            return f"{name} (gradient)" if "transpose(" in path else name
    return ""


def show(result: dict[str, Any], as_json: bool) -> None:
    """Prints a result as one JSON object, or a line per figure."""
    if as_json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        if isinstance(value, dict):
            print(f"{key}:")
            for name, entry in value.items():
                shown = f"{entry:.1%}" if key.endswith("share") else entry
                print(f"  {name}: {shown}")
        else:
            print(f"{key}: {value:,.4g}" if isinstance(value, float) else f"{key}: {value}")
