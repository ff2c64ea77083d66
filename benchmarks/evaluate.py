"""All-rank evaluation of the test users: `python -m benchmarks.evaluate --data.path DIR`."""

from benchmarks.measure import (
    Result,
    benchmark_parser,
    matmul_rate,
    median_ms,
    memory,
    run_benchmark,
    timed_ms,
)
from benchmarks.scopes import compiled_program, scope_shares
from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.training.problem import Problem, TrainState, load_problem, new_state
from mmssl_jax.training.programs import compile_embedding, split_evaluator

SCOPES = ("evaluate", "scores", "mask_seen", "top_k")


def measure_evaluation(
    config: Config,
    dataset: Dataset | None,
    repeats: int,
    profile: str | None,
    rate: float | None = None,
) -> Result:
    """Times of ranking all items for all test users, on all configured devices.

    `eval_ms` is from final embeddings on the device to metrics on the host; `embed_ms`, the forward
    pass that makes the embeddings, comes on top.

    rate: the device's matmul rate, FLOP per second; measured if None.
    """
    problem = load_problem(config, dataset)
    return time_evaluation(problem, new_state(problem), repeats, profile, rate or matmul_rate())


def time_evaluation(
    problem: Problem, state: TrainState, repeats: int, profile: str | None, rate: float
) -> Result:
    """The figures of `measure_evaluation` for a problem and a state of it."""
    embed, evaluate = compile_embedding(problem), split_evaluator(problem, "test")
    embed_ms = median_ms(lambda: embed(state), repeats)
    scorer, n_items = embed(state), problem.dataset.n_items
    metrics: dict[str, float] = {}
    first_ms = timed_ms(lambda: metrics.update(evaluate(scorer)))
    eval_ms = median_ms(lambda: evaluate(scorer), repeats)
    users, width = int(metrics["users"]), scorer[1].shape[1]
    flops = 2 * users * n_items * width / len(problem.devices)
    floor_ms = flops / rate * 1e3
    return {
        "eval_ms": eval_ms,
        "ms_per_1000_users": eval_ms / users * 1e3,
        "users": users,
        "items": n_items,
        "embed_ms": embed_ms,
        "first_call_ms": first_ms,
        "matmul_floor_ms": floor_ms,
        "roofline": floor_ms / eval_ms,
        "matmul_gflop": flops / 1e9,
        "best_matmul_gflop_per_s": rate / 1e9,
        **memory(),
        "time_share": scope_shares(
            compiled_program("evaluate"), lambda: evaluate(scorer), SCOPES, profile
        ),
    }


def main(arguments: list[str] | None = None) -> None:
    """Parses the flags, measures and prints."""
    run_benchmark(benchmark_parser("evaluate", arguments), measure_evaluation, (), arguments)


if __name__ == "__main__":
    main()
