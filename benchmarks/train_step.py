"""One training step, both players: `python -m benchmarks.train_step --config C --data.path DIR`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jsonargparse.typing import PositiveInt

from benchmarks.dense_step import dense_train_step
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
from mmssl_jax.parallel import in_float32
from mmssl_jax.training.draws import draw
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.state import Inputs, TrainState
from mmssl_jax.training.step import rebuild_if, train_step, train_steps

SCOPES = (
    "sampling",
    "batch_edges",
    "structure",
    "encoders",
    "learned_graphs",
    "attention",
    "light_gcn",
    "fusion",
    "bpr",
    "contrastive",
    "generated_rows",
    "real_rows",
    "project_rows",
    "gradient_penalty",
    "adversarial",
    "critic_step",
    "generator_step",
    "critic_optimizer",
    "generator_optimizer",
)


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

    `step_ms` is the median over `repeats` of a scan of `steps` steps, divided by them; a rebuild of
    the learned graphs that comes once an epoch is timed apart and its share added.

    Args:
      dense: whether the dense formulation is timed too; only where the game is adversarial.
      rate: the device's matmul rate, FLOP per second; measured if None.
    """
    problem = load_problem(config, dataset)
    # Arguments and not constants: a program with the dataset inside compiles slowly.
    inputs, sizes = problem.inputs, problem.sizes
    # Any step but an epoch's first, which would rebuild the graphs.
    state = new_state(problem)._replace(step=jnp.int32(1))

    options = compiler_options(problem.devices[0].platform)
    jit_with_options = functools.partial(jax.jit, compiler_options=options)

    @jit_with_options
    @in_float32
    def scan(state: TrainState, inputs: Inputs) -> Any:
        return train_steps(state, inputs, config, sizes, steps)

    @in_float32
    def one_step(state: TrainState, inputs: Inputs) -> Any:
        draws = draw(state.key, state.step, inputs, config, sizes)
        return train_step(state, draws, inputs, config, sizes)

    @jit_with_options
    @in_float32
    def rebuild(state: TrainState, inputs: Inputs) -> Any:
        return rebuild_if(jnp.bool_(True), state, inputs, config, sizes).learned

    @in_float32
    def dense_step(state: TrainState, inputs: Inputs) -> Any:
        draws = draw(state.key, state.step, inputs, config, sizes)
        return dense_train_step(state, draws, inputs, config, sizes)

    first_ms = timed_ms(lambda: scan(state, inputs))
    step_ms = median_ms(lambda: scan(state, inputs), repeats, warm_up=0) / steps
    rebuilds = config.structure.source == "all_users" and config.structure.every == 0
    rebuild_ms = median_ms(lambda: rebuild(state, inputs), repeats) if rebuilds else 0.0
    peak = memory()
    rate, flops = rate or matmul_rate(), matmul_flops(one_step, state, inputs)
    floor_ms = flops / rate * 1e3
    program = scan.lower(state, inputs).compile()
    result = {
        "step_ms": step_ms + rebuild_ms / sizes.steps_per_epoch,
        "rebuild_ms": rebuild_ms,
        "first_call_ms": first_ms,
        "matmul_floor_ms": floor_ms,
        "roofline": floor_ms / step_ms,
        "matmul_gflop": flops / 1e9,
        "xla_gflop": xla_flops(jit_with_options(one_step).lower(state, inputs).compile()) / 1e9,
        "best_matmul_gflop_per_s": rate / 1e9,
        **peak,
        "time_share": scope_shares(
            program.as_text() or "", lambda: program(state, inputs), SCOPES, profile
        ),
    }
    if dense and config.game.weight and config.game.kind == "adversarial":
        call = jit_with_options(dense_step)
        result["dense_step_ms"] = median_ms(lambda: call(state, inputs), min(repeats, 3))
        result["dense_matmul_gflop"] = matmul_flops(dense_step, state, inputs) / 1e9
        result |= {f"dense_{name}": value for name, value in memory().items()}
    return result


def main(arguments: list[str] | None = None) -> None:
    """Parses the flags, measures and prints."""
    parser = benchmark_parser("train_step")
    parser.add_argument("--steps", type=PositiveInt, default=10, help="steps of one timed scan")
    parser.add_argument("--dense", type=bool, default=True, help="time the dense formulation too")
    run_benchmark(parser, measure_step, ("steps", "dense"), arguments)


if __name__ == "__main__":
    main()
