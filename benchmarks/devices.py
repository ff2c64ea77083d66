"""What each of N devices holds, computes and sends in a step with spread rows.

`python -m benchmarks.devices --config configs/tiktok.yaml --data.path DIR --counts '[1,2,4,8]'`
compiles a training step, and an epoch's start, for N devices of this host's processor, of which it
makes as many as are needed, and reads the figures off the compiled programs: nothing is run. With
`--items 1000000` it takes a synthetic catalogue of that size.
"""

import contextlib
import dataclasses
import json
import math
import os
import re
import sys
from typing import Any

import jax
from jaxtyping import PyTree
from jsonargparse.typing import NonNegativeInt, PositiveInt

from benchmarks.catalogue import catalogue
from benchmarks.measure import Result, benchmark_parser, matmul_flops, run_benchmark, xla_flops
from mmssl_jax.compilation import compiler_options
from mmssl_jax.config import Config, ConfigError, override
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.data.load import load_dataset
from mmssl_jax.digest import array_names
from mmssl_jax.layout import Layout, lay_out, make_layout, places
from mmssl_jax.method import can_spread
from mmssl_jax.methods import METHODS
from mmssl_jax.parallel import AXIS, BY_ROW, WHOLE, is_place, mesh_of, placed, sharded

COLLECTIVES = ("all-gather", "reduce-scatter", "all-reduce")
_RESULT = re.compile(r"= (?P<result>.*?) (?P<kind>" + "|".join(COLLECTIVES) + r")(?:-start)?\(")
_ARRAY = re.compile(r"(?P<type>[a-z]+)(?P<bits>\d*)\[(?P<shape>[\d,]*)\]")


def measure_devices(
    config: Config,
    dataset: Dataset | None,
    repeats: int,
    profile: str | None,
    counts: tuple[int, ...] = (1, 2, 4, 8),
    items: int = 0,
) -> Result:
    """For each number of devices the figures of `of_count`, {"1": .., "2": ..}."""
    del repeats, profile  # nothing is run
    make_devices(max(counts))
    if not can_spread(METHODS[config.method]):
        raise ConfigError(f"method {config.method} cannot spread its rows over devices")
    if items:
        dataset = catalogue(items)
    elif dataset is None:
        dataset = load_dataset(config.data, METHODS[config.method].NEEDS_FEATURES)
    whole = jax.device_get(METHODS[config.method].build(config, dataset).inputs(dataset))
    found: Result = {}
    for count in counts:
        found[str(count)] = of_count(config, dataset, whole, count)
        print(count, json.dumps(found[str(count)]), file=sys.stderr)
    return found


def make_devices(count: int) -> None:
    """Makes so many devices of the processor, where JAX has not been told of a number already.

    Raises ConfigError where there are fewer.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # JAX has been used in this process before
            jax.config.update("jax_num_cpu_devices", count)
    found = len(jax.devices("cpu"))
    if found < count:
        raise ConfigError(
            f"counts are up to {count}, but JAX has made {found} devices of the processor: begin a "
            "new process, without xla_force_host_platform_device_count in XLA_FLAGS"
        )


def of_count(config: Config, dataset: Dataset, whole: PyTree, count: int) -> Result:
    """Bytes that a device holds of what is spread and of what is not, and of the compiled step and
    epoch's start its arguments, work arrays, FLOPs and bytes of the arrays of collectives."""
    config = override(config, {"parallel.devices": count})
    devices, layout = jax.devices("cpu")[:count], make_layout(dataset, count)
    of_whole: Any = METHODS[config.method].build(config, dataset, count)
    method = dataclasses.replace(of_whole, axis=AXIS, nodes=layout.nodes)
    state, key = abstract_start(of_whole, whole)
    state = jax.eval_shape(lambda x: lay_out(x, layout, method.ROWS, method.graph_edges()), state)
    inputs = lay_out(whole, layout, method.ROWS)
    of_state, of_inputs = places(state, method.ROWS), places(inputs, method.ROWS)
    where = placed(devices, WHOLE)
    arguments = (
        abstract(state, of_state, devices),
        jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=where),
        abstract(inputs, of_inputs, devices),
    )
    step = sharded(method.step, mesh_of(devices), (of_state, WHOLE, of_inputs), (of_state, WHOLE))
    start = sharded(
        lambda state, key, inputs: method.start_epoch(state, inputs),
        mesh_of(devices),
        (of_state, WHOLE, of_inputs),
        of_state,
    )
    return {
        "held": held(arguments, (of_state, WHOLE, of_inputs), layout),
        "step": of_program(step, arguments, count),
        "epoch_start": of_program(start, arguments, count),
    }


def abstract_start(method: Any, whole: PyTree) -> tuple[PyTree, Any]:
    """Shapes of the whole first state of a method, and of a key."""
    key = jax.random.key(0, impl="threefry2x32")
    return jax.eval_shape(method.init, key, whole), jax.eval_shape(lambda: key)


def abstract(tree: PyTree, of_tree: PyTree, devices: list[jax.Device]) -> PyTree:
    """Shapes of a tree of arrays in their places."""
    return jax.tree.map(
        lambda place, x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed(devices, place)),
        of_tree,
        tree,
        is_leaf=is_place,
    )


def held(arguments: tuple, of_arguments: tuple, layout: Layout) -> Result:
    """Bytes of a device's rows of what is spread, and of each array that it has whole."""
    flat = jax.tree.leaves(arguments)
    of_flat = jax.tree.leaves(of_arguments, is_leaf=is_place)
    sizes = [math.prod(x.shape) * (8 if x.dtype.itemsize == 0 else x.dtype.itemsize) for x in flat]
    named = zip(array_names(arguments), sizes, of_flat, strict=True)
    names = {name: size for name, size, place in named if place != BY_ROW}
    spread = sum(sizes) - sum(names.values())
    return {
        "spread_bytes": spread // layout.n_devices,
        "whole_bytes": sum(names.values()),
        "whole": {name: size for name, size in names.items() if size >= 2**14},
    }


def of_program(function: Any, arguments: tuple, count: int) -> Result:
    """The figures of one compiled program, of each device."""
    options = compiler_options("cpu")
    compiled = jax.jit(function).lower(*arguments).compile(compiler_options=options)
    memory: Any = compiled.memory_analysis()
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "work_bytes": memory.temp_size_in_bytes,
        "matmul_flop": matmul_flops(function, *arguments),
        "xla_flop": xla_flops(compiled),
        "collective_bytes": collective_bytes(compiled.as_text() or "", count),
    }


def collective_bytes(program: str, count: int) -> dict[str, int]:
    """Bytes of the whole arrays that collectives gather or add up, by kind; those of a loop's body
    count once.

    A ring moves (N - 1) / N of them through each device, twice for an all-reduce.
    """
    found = dict.fromkeys(COLLECTIVES, 0)
    for match in _RESULT.finditer(program):
        size = sum(
            math.prod(map(int, filter(None, array["shape"].split(","))))
            * (int(array["bits"]) // 8 if array["bits"] else 1)
            for array in _ARRAY.finditer(match["result"])
        )
        found[match["kind"]] += size * (count if match["kind"] == "reduce-scatter" else 1)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Parses the flags, measures and prints."""
    parser = benchmark_parser("devices", arguments)
    parser.add_argument(
        "--counts", type=tuple[PositiveInt, ...], default=(1, 2, 4, 8), help="numbers of devices"
    )
    parser.add_argument(
        "--items", type=NonNegativeInt, default=0, help="a synthetic catalogue of so many items"
    )
    run_benchmark(parser, measure_devices, ("counts", "items"), arguments)


if __name__ == "__main__":
    main()
