"""What every benchmark does alike: settings, medians, matmul rate, FLOPs, memory, output."""

import json
import math
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr
from jsonargparse.typing import PositiveInt

from mmssl_jax.cli.errors import USER_ERRORS, leave
from mmssl_jax.config import flatten
from mmssl_jax.records.environment import environment
from mmssl_jax.run_config import ConfigParser, config_parser, parse_config, validate

Result = dict[str, Any]
MATMUL_SIZES = ((1024, 1024, 1024), (2048, 2048, 2048), (1024, 6710, 1677))


def benchmark_parser(
    name: str, arguments: list[str] | None = None, repeats: int = 5
) -> ConfigParser:
    """A parser of all settings and of what every benchmark takes besides."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = config_parser(f"benchmarks.{name}", given)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--repeats", type=PositiveInt, default=repeats, help="timed calls; the median counts"
    )
    parser.add_argument("--profile", type=str, default=None, help="keep a trace in this folder")
    return parser


def run_benchmark(
    parser: ConfigParser,
    measure: Callable[..., Result],
    options: tuple[str, ...],
    arguments: list[str] | None,
) -> None:
    """Measures and prints; `options` are the flags handed on beside `repeats` and `profile`.

    `measure(config, dataset, repeats, profile, **options)` loads the dataset where it is None.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    config, parsed = parse_config(parser, arguments)
    chosen = {name: parsed[name] for name in ("repeats", "profile", *options)}
    try:
        validate(config)
        result = measure(config, None, **chosen)
    except USER_ERRORS as error:
        leave(error)
    names: Result = {k: v for k, v in flatten(config).items() if k in ("method", "preset")}
    show({**result, **names, "hardware": hardware()}, parsed.json)


def hardware() -> Result:
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


def memory() -> Result:
    """Greatest memory so far, MiB: resident on the host, and on the device where it tells."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"peak_rss_mib": peak / 2**20 if platform.system() == "Darwin" else peak / 2**10}
    of_device = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in of_device:
        found["peak_device_mib"] = of_device["peak_bytes_in_use"] / 2**20
    return found


def matmul_rate(sizes: tuple[tuple[int, int, int], ...] = MATMUL_SIZES, repeats: int = 5) -> float:
    """Best float32 rate of one device over products [m, k] x [k, n] of some sizes, FLOP per second.

    The best and not the median: it is the floor that other times are compared with.
    """
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="float32"))
    rates = []
    for m, k, n in sizes:
        a, b = jnp.ones((m, k)), jnp.ones((k, n))
        times = [timed_ms(partial(product, a, b)) for _ in range(repeats + 1)]
        rates.append(2e3 * m * k * n / min(times))
    return max(rates)


def matmul_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """FLOPs of all matrix products of a traced function, scans multiplied by their length.

    Products with a single vector are none, and what no result needs is left out, as XLA does. A
    branch counts as its costliest side, the body of a loop of unknown length as one pass.
    """
    closed: ClosedJaxpr = jax.make_jaxpr(function)(*arguments)
    needed, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return _jaxpr_flops(needed)


def _jaxpr_flops(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), (batched, _) = equation.params["dimension_numbers"]
            left, result = (v.aval for v in (equation.invars[0], equation.outvars[0]))
            assert isinstance(left, ShapedArray)
            assert isinstance(result, ShapedArray)
            inner = math.prod(left.shape[axis] for axis in contracted)
            batch = math.prod(left.shape[axis] for axis in batched)
            rows = left.size // (inner * batch) if left.size else 0
            if rows > 1 and result.size > rows * batch:
                total += 2 * result.size * inner
        inner_flops = [_jaxpr_flops(inner) for inner in inner_jaxprs(equation.params)]
        if equation.primitive.name == "cond":
            total += max(inner_flops, default=0)
        else:
            total += sum(inner_flops) * equation.params.get("length", 1)
    return total


def inner_jaxprs(params: dict[str, Any]) -> list[Jaxpr]:
    """The traced functions that an equation of these parameters runs."""
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


def show(result: Result, as_json: bool) -> None:
    """Prints a result as one JSON object, or a line per figure."""
    if as_json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        if isinstance(value, dict):
            print(f"{key}:")
            for name, entry in value.items():
                print(f"  {name}: {f'{entry:.1%}' if key.endswith('share') else _shown(entry)}")
        else:
            print(f"{key}: {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
