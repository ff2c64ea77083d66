"""One training step, both players: `python -m benchmarks.train_step --config C --data.path DIR`."""

from typing import Any

import jax

from benchmarks.dense_step import dense_train_step
from benchmarks.measure import (
    hardware,
    matmul_flops,
    matmul_rate,
    median_ms,
    peak_rss_mib,
    scope_shares,
    show,
    xla_flops,
)
from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.parallel import in_float32
from mmssl_jax.run_config import config_parser, parse_config, validate
from mmssl_jax.training.draws import draw
from mmssl_jax.training.problem import load_problem, new_state
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
    steps: int,
    repeats: int,
    dense: bool,
    profile: str | None,
) -> dict[str, Any]:
    """Times of a step, of its dense formulation and of its matrix products alone, on one device.

    `step_ms` is the median over `repeats` of a scan of `steps` steps, divided by them; a rebuild of
    the learned graphs that comes once an epoch is timed apart and its share added.
    """
    problem = load_problem(config, dataset)
    inputs, sizes = problem.inputs, problem.sizes
    # Any step but an epoch's first, which would rebuild the graphs.
    state = new_state(problem)._replace(step=jax.numpy.int32(1))
    scan = jax.jit(in_float32(lambda state: train_steps(state, inputs, config, sizes, steps)))
    compile_ms = median_ms(lambda: scan(state), 1, warm_up=0)
    step_ms = median_ms(lambda: scan(state), repeats) / steps
    rebuild = jax.jit(in_float32(lambda state: rebuild_if(True, state, inputs, config, sizes)))
    rebuilds = config.structure.source == "all_users" and config.structure.every == 0
    rebuild_ms = median_ms(lambda: rebuild(state).learned, repeats) if rebuilds else 0.0

    def one_step(state):
        draws = draw(state.key, state.step, inputs, config, sizes)
        return train_step(state, draws, inputs, config, sizes)

    rate, flops = matmul_rate(), matmul_flops(one_step, state)
    floor_ms = flops / rate * 1e3
    compiled = scan.lower(state).compile()
    result = {
        "step_ms": step_ms + rebuild_ms / sizes.steps_per_epoch,
        "rebuild_ms": rebuild_ms,
        "first_call_ms": compile_ms,
        "matmul_floor_ms": floor_ms,
        "roofline": floor_ms / step_ms,
        "matmul_gflop": flops / 1e9,
        "xla_gflop": xla_flops(jax.jit(one_step).lower(state).compile()) / 1e9,
        "best_matmul_gflop_per_s": rate / 1e9,
        "peak_rss_mib": peak_rss_mib(),
        "time_share": scope_shares(compiled, lambda: compiled(state), SCOPES, profile),
    }
    if dense:
        dense_call = jax.jit(in_float32(lambda s: dense_train_step(s, inputs, config, sizes)))
        result["dense_step_ms"] = median_ms(lambda: dense_call(state), min(repeats, 3))
        result["dense_peak_rss_mib"] = peak_rss_mib()
    return result


def main() -> None:
    parser = config_parser("benchmarks.train_step")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--steps", type=int, default=10, help="steps of one timed scan")
    parser.add_argument("--repeats", type=int, default=5, help="timed scans; the median counts")
    parser.add_argument("--dense", type=bool, default=True, help="time the dense formulation too")
    parser.add_argument("--profile", type=str, default=None, help="keep the trace in this folder")
    config, parsed = parse_config(parser, None)
    validate(config)
    result = measure_step(config, None, parsed.steps, parsed.repeats, parsed.dense, parsed.profile)
    show({**result, "preset": config.preset, "hardware": hardware()}, parsed.json)


if __name__ == "__main__":
    main()
