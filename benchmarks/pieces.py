"""What each hand-written piece of MMSSL gains over its stock form, alone.

`python -m benchmarks.pieces --config configs/tiktok.yaml --data.path DIR` times a training step
with all pieces and with one of them replaced, turn by turn, and compares the memory that the
compiled programs ask for, here and, with `--items 1000000`, on a catalogue of that size, which is
compiled and not run.
"""

import contextlib
import functools
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key
from jsonargparse.typing import NonNegativeInt, PositiveInt

import mmssl_jax
from benchmarks.catalogue import catalogue
from benchmarks.measure import Result, benchmark_parser, run_benchmark, timed_ms
from mmssl_jax import optimizers
from mmssl_jax.compilation import compiler_options
from mmssl_jax.config import Config, ConfigError
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.data.load import load_dataset
from mmssl_jax.graph import propagate as propagation
from mmssl_jax.graph.rows import BatchEdges
from mmssl_jax.method import Inputs, Method, Metrics
from mmssl_jax.methods import METHODS
from mmssl_jax.methods.mmssl import fusion, losses
from mmssl_jax.methods.mmssl.fast import dropout, edge_chunks, kernel_products
from mmssl_jax.methods.mmssl.game import factored_rows, unit_rows
from mmssl_jax.parallel import in_float32
from mmssl_jax.precision import Precision, matmul
from mmssl_jax.training.problem import TrainState
from mmssl_jax.training.steps import train_steps

Patches = list[tuple[object, str, object]]
"""(module, name of a function in it, stock form)"""


class Piece(NamedTuple):
    """A hand-written piece: its name, the files it is in, and its stock form, put in its place."""

    name: str
    files: tuple[str, ...]
    patches: Patches


def stock_kernel_products(
    kernel: Float[Array, "I H"],
    items: Sequence[Float[Array, "I _D"]],
    weights: Sequence[Float[Array, " S"]],
    edges: BatchEdges,
    with_gram: bool = False,
    precision: Precision = "float32",
) -> kernel_products.KernelProducts:
    """Each product by itself, differentiated automatically."""
    factors = [matmul(vectors.T, kernel, precision) for vectors in items]
    nothing = jnp.zeros((0, kernel.shape[1]), kernel.dtype)

    def at_edges(of_edges: Float[Array, " S"]) -> Float[Array, "B H"]:
        messages = jnp.where(edges.mask, of_edges, 0.0)[:, None] * kernel[edges.item]
        return jax.ops.segment_sum(messages, edges.row, edges.n_rows)

    return kernel_products.KernelProducts(
        jnp.concatenate(factors) if factors else nothing,
        tuple(at_edges(of_edges) for of_edges in weights),
        matmul(kernel.T, kernel, precision) if with_gram else None,
    )


def stock_edge_scores(
    users: Float[Array, "B D"], items: Float[Array, "I D"], edges: BatchEdges
) -> Float[Array, " S"]:
    """All places of the batch's edges at once."""
    scores = jnp.sum(users[edges.row] * items[edges.item], axis=1)
    return jnp.where(edges.mask, scores, 0.0)


def stock_keep_mask(
    key: Key[Array, ""], rate: float, rows: Int[Array, " R"], width: int
) -> Bool[Array, "R W"]:
    """JAX's own draws."""
    return jax.random.bernoulli(key, 1 - rate, (len(rows), width))


def stock_sum_messages(
    n_receivers: int,
    edges: tuple[Float[Array, " E"], Int[Array, " E"], Int[Array, " E"]],
    x: Float[Array, "S C"],
    is_sorted: bool,
) -> Float[Array, "R C"]:
    """All messages at once."""
    weights, senders, receivers = edges
    return jax.ops.segment_sum(
        weights[:, None] * x[senders], receivers, n_receivers, indices_are_sorted=is_sorted
    )


def stock_map(function: Callable, params: object, rows: object) -> object:
    """All rows at once."""
    return function(params, rows)


PIECES = (
    Piece(
        "kernel products",
        ("methods/mmssl/fast/kernel_products.py",),
        [(factored_rows, "kernel_products", stock_kernel_products)],
    ),
    Piece(
        "batch-edge chunks",
        ("methods/mmssl/fast/edge_chunks.py",),
        [
            (unit_rows, "edge_scores", stock_edge_scores),
            (edge_chunks, "vectors_at_once", lambda width: sys.maxsize),
        ],
    ),
    Piece(
        "moments in blocks",
        ("optimizers.py",),
        [(optimizers, "scale_by_moments", functools.partial(optax.scale_by_adam, eps=1e-8))],
    ),
    Piece(
        "dropout words",
        ("methods/mmssl/fast/dropout.py",),
        [(dropout, "keep_mask", stock_keep_mask)],
    ),
    Piece(
        "attention in blocks",
        ("methods/mmssl/fast/row_blocks.py",),
        [(fusion, "map_row_blocks", stock_map), (losses, "map_row_blocks", stock_map)],
    ),
    Piece("CPU compiler options", ("compilation.py",), []),
    Piece(
        "propagation in pieces",
        ("graph/propagate.py", "blocks.py"),
        [(propagation, "_sum_messages", stock_sum_messages)],
    ),
)
PACKAGE = Path(mmssl_jax.__file__).parent
OPTIONS = "CPU compiler options"


@contextlib.contextmanager
def replaced(piece: Piece | None) -> Iterator[None]:
    """What is traced inside has the stock form of a piece."""
    with contextlib.ExitStack() as stack:
        for module, name, stock in piece.patches if piece else ():
            stack.enter_context(patch.object(module, name, stock))
        yield


def compiled_step(
    method: Method, state: TrainState, inputs: Inputs, steps: int, piece: Piece | None
) -> jax.stages.Compiled:
    """A scan of steps, with the stock form of a piece or with all pieces; of arrays or shapes."""

    def scan(state: TrainState, inputs: Inputs) -> tuple[TrainState, Metrics]:
        return train_steps(method, state, inputs, steps)

    platform = jax.local_devices()[0].platform
    options = {} if piece and piece.name == OPTIONS else compiler_options(platform)
    with replaced(piece):
        lowered = jax.jit(in_float32(scan), donate_argnums=0).lower(state, inputs)
        return lowered.compile(compiler_options=options)


def start(method: Method, inputs: Inputs) -> TrainState:
    """The state before the first step."""
    key = jax.random.key(0, impl="threefry2x32")
    return TrainState(jnp.int32(0), key, method.init(key, inputs))


def memory_mib(compiled: jax.stages.Compiled) -> float:
    """Arguments, results that are not in their place, and work arrays of a program."""
    found = compiled.memory_analysis()
    if found is None:
        return float("nan")
    kept = found.output_size_in_bytes - found.alias_size_in_bytes
    return (found.argument_size_in_bytes + kept + found.temp_size_in_bytes) / 2**20


def step_times(
    method: Method, inputs: Inputs, programs: Sequence[jax.stages.Compiled], repeats: int
) -> list[float]:
    """Median milliseconds of each program, which take turns."""
    states = [jax.jit(functools.partial(start, method))(inputs) for _ in programs]
    times: list[list[float]] = [[] for _ in programs]
    for turn in range(repeats + 1):
        for number, program in enumerate(programs):

            def call(number: int = number, program: jax.stages.Compiled = program) -> object:
                states[number], metrics = program(states[number], inputs)
                return metrics

            ms = timed_ms(call)
            if turn:
                times[number].append(ms)
    return [statistics.median(of_program) for of_program in times]


def large_problem(config: Config, n_items: int) -> tuple[Method, TrainState, Inputs]:
    """The shapes of a problem with that many items, without its arrays."""
    dataset = catalogue(n_items)
    method = METHODS[config.method].build(config, dataset)
    # A few interactions have the same kinds of arrays; only their lengths are the catalogue's.
    inputs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), method.inputs(dataset)
    )
    return method, jax.eval_shape(functools.partial(start, method), inputs), inputs


def measure_pieces(
    config: Config,
    dataset: Dataset | None,
    repeats: int,
    profile: str | None,
    steps: int = 10,
    items: int = 0,
) -> Result:
    """Per piece: lines of its files, ms of a step with all pieces and with its stock form, share of
    the stock form's time that it saves, and the same of memory.

    Args:
      steps: of one timed scan.
      items: if not 0, memory is also compared on a synthetic catalogue of that many items.
    """
    del profile
    if config.method != "mmssl":
        raise ConfigError(f"the pieces are those of mmssl, and the method is {config.method}")
    dataset = dataset or load_dataset(config.data)
    method = METHODS[config.method].build(config, dataset)
    inputs = jax.tree.map(jnp.asarray, method.inputs(dataset))
    state = jax.eval_shape(functools.partial(start, method), inputs)
    whole = compiled_step(method, state, inputs, steps, None)
    large = large_problem(config, items) if items else None
    large_whole = memory_mib(compiled_step(*large, 1, None)) if large else float("nan")
    result: Result = {}
    for piece in PIECES:
        stock = compiled_step(method, state, inputs, steps, piece)
        ms, stock_ms = (t / steps for t in step_times(method, inputs, [whole, stock], repeats))
        figures = {
            "lines": sum(len((PACKAGE / f).read_text().splitlines()) for f in piece.files),
            "step_ms": ms,
            "stock_ms": stock_ms,
            "time_saved": 1 - ms / stock_ms,
            "memory_saved": 1 - memory_mib(whole) / memory_mib(stock),
        }
        if large:
            large_stock = memory_mib(compiled_step(*large, 1, piece))
            figures |= {
                "large_mib": large_whole,
                "large_stock_mib": large_stock,
                "large_memory_saved": 1 - large_whole / large_stock,
            }
        print(piece.name, {k: round(v, 4) for k, v in figures.items()}, file=sys.stderr)
        result[piece.name] = figures
    return result


def main(arguments: list[str] | None = None) -> None:
    """Parses the flags, measures and prints."""
    parser = benchmark_parser("pieces", arguments, 7)
    parser.add_argument("--steps", type=PositiveInt, default=10, help="steps of one timed scan")
    parser.add_argument(
        "--items", type=NonNegativeInt, default=0, help="also compare memory at that many items"
    )
    run_benchmark(parser, measure_pieces, ("steps", "items"), arguments)


if __name__ == "__main__":
    main()
