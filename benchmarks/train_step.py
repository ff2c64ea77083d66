"""One training step, both players: `python -m benchmarks.train_step --config C --data.path DIR`."""

import functools

import jax
from jsonargparse.typing import PositiveInt

from benchmarks.measure import (
    Result,
    benchmark_parser,
    matmul_flops,
    matmul_rate,
    median_ms,
    memory,
    run_benchmark,
    timed_ms,
    xla_flops,
)
from benchmarks.scopes import scope_shares
from mmssl_jax.compilation import compiler_options
from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.method import Benchmarked, Inputs, Metrics, State
from mmssl_jax.parallel import in_float32
from mmssl_jax.training.problem import TrainState, load_problem, new_state
from mmssl_jax.training.steps import train_steps


def measure_step(
    config: Config,
    dataset: Dataset | None,
    repeats: int,
    profile: str | None,
    steps: int = 10,
    dense: bool = True,
    rate: float | None = None,
) -> Result:
    """Times of a step, of its dense formulation and of its matrix products alone, on one device.

    `step_ms` is the median over `repeats` of a scan of `steps` steps, divided by them; what comes
    once an epoch, such as a rebuild of graphs, is timed apart (`epoch_start_ms`) and its share
    added.

    Args:
      dense: whether the method's plain formulation is timed too, if it has one.
      rate: the device's matmul rate, FLOP per second; measured if None.
    """
    problem = load_problem(config, dataset)
    # Arguments and not constants: a program with the dataset inside compiles slowly.
    method, inputs, state = problem.method, problem.inputs, new_state(problem)
    options = compiler_options(problem.devices[0].platform)
    jit_with_options = functools.partial(jax.jit, compiler_options=options)

    @jit_with_options
    @in_float32
    def scan(state: TrainState, inputs: Inputs) -> tuple[TrainState, Metrics]:
        return train_steps(method, state, inputs, steps)

    @in_float32
    def one_step(state: TrainState, inputs: Inputs) -> tuple[TrainState, Metrics]:
        return train_steps(method, state, inputs, 1)

    start_epoch = jit_with_options(in_float32(method.start_epoch))

    first_ms = timed_ms(lambda: scan(state, inputs))
    step_ms = median_ms(lambda: scan(state, inputs), repeats, warm_up=0) / steps
    start_ms = median_ms(lambda: start_epoch(state.method, inputs), repeats)
    peak = memory()
    rate, flops = rate or matmul_rate(), matmul_flops(one_step, state, inputs)
    floor_ms = flops / rate * 1e3
    program = scan.lower(state, inputs).compile()
    scopes = method.SCOPES if isinstance(method, Benchmarked) else ()
    result = {
        "step_ms": step_ms + start_ms / problem.steps_per_epoch,
        "epoch_start_ms": start_ms,
        "first_call_ms": first_ms,
        "matmul_floor_ms": floor_ms,
        "roofline": floor_ms / step_ms,
        "matmul_gflop": flops / 1e9,
        "xla_gflop": xla_flops(jit_with_options(one_step).lower(state, inputs).compile()) / 1e9,
        "best_matmul_gflop_per_s": rate / 1e9,
        **peak,
        "time_share": scope_shares(
            program.as_text() or "", lambda: program(state, inputs), scopes, profile
        ),
    }
    if dense and isinstance(method, Benchmarked):

        @in_float32
        def dense_step(state: TrainState, inputs: Inputs) -> State:
            key = jax.random.fold_in(state.key, state.step)
            return method.reference_step(state.method, key, inputs)

        call = jit_with_options(dense_step)
        result["dense_step_ms"] = median_ms(lambda: call(state, inputs), min(repeats, 3))
        result["dense_matmul_gflop"] = matmul_flops(dense_step, state, inputs) / 1e9
        result |= {f"dense_{name}": value for name, value in memory().items()}
    return result


def main(arguments: list[str] | None = None) -> None:
    """Parses the flags, measures and prints."""
    parser = benchmark_parser("train_step", arguments)
    parser.add_argument("--steps", type=PositiveInt, default=10, help="steps of one timed scan")
    parser.add_argument("--dense", type=bool, default=True, help="time the dense formulation too")
    run_benchmark(parser, measure_step, ("steps", "dense"), arguments)


if __name__ == "__main__":
    main()
