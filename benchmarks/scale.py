"""How time and memory grow with the catalogue: `python -m benchmarks.scale --out results.jsonl`.

Every size runs in a process of its own, so that peak memory is the size's.
"""

import dataclasses
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
from jsonargparse.typing import PositiveInt

from benchmarks.catalogue import catalogue
from benchmarks.evaluate import time_evaluation
from benchmarks.measure import (
    Result,
    benchmark_parser,
    hardware,
    matmul_flops,
    matmul_rate,
    median_ms,
    memory,
    show,
    timed_ms,
)
from benchmarks.scopes import compiled_program, scope_shares
from mmssl_jax.cli.errors import USER_ERRORS, leave
from mmssl_jax.compilation import compiler_options
from mmssl_jax.config import Config, ConfigError, flatten, override
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.method import Benchmarked, Inputs, Metrics
from mmssl_jax.parallel import in_float32
from mmssl_jax.run_config import parse_config, validate
from mmssl_jax.training.problem import Problem, TrainState, load_problem, new_state
from mmssl_jax.training.programs import compile_embedding, compile_training
from mmssl_jax.training.steps import train_steps

SIZES = (10_000, 50_000, 200_000, 1_000_000)
OPTIONS = ("repeats", "profile", "steps", "sampled_users", "block_entries")


def measure_size(
    config: Config,
    n_items: int,
    repeats: int,
    profile: str | None = None,
    steps: int = 3,
    sampled_users: int = 2048,
    block_entries: int = 2**27,
    rate: float | None = None,
) -> Result:
    """Times and memory at one catalogue size; a key says what was peak memory up to then.

    Args:
      steps: training steps of one timed scan.
      sampled_users: users that an epoch's start and an evaluation are timed on.
      block_entries: most scores [users, items] at once; lowers `block_users` of both.
      rate: the device's matmul rate, FLOP per second; measured if None.
    """
    blocks = {
        key: max(16, min(value, block_entries // n_items))
        for key, value in flatten(config).items()
        if key.endswith("block_users")
    }
    config = override(config, blocks)
    result: Result = {"items": n_items, **blocks}

    def passed(name: str, started: float) -> None:
        result[f"{name}_s"] = time.perf_counter() - started
        result.update({f"{name}_{kind}": value for kind, value in memory().items()})

    started = time.perf_counter()
    dataset = catalogue(n_items)
    passed("made", started)
    started = time.perf_counter()
    dataset.check()
    passed("checked", started)
    started = time.perf_counter()
    # One device's memory is measured, and a state is stepped and evaluated as it is.
    problem = load_problem(override(config, {"parallel.tables": "replicated"}), dataset)
    state = jax.block_until_ready(new_state(problem))
    passed("built", started)

    started = time.perf_counter()
    state, result["first_steps_ms"], result["step_ms"] = time_steps(problem, state, steps, repeats)
    passed("stepped", started)

    def one_step(state: TrainState, inputs: Inputs) -> tuple[TrainState, Metrics]:
        return train_steps(problem.method, state, inputs, 1)

    rate, flops = rate or matmul_rate(), matmul_flops(one_step, state, problem.inputs)
    result["users"], result["train"] = dataset.n_users, len(dataset.train)
    result["steps_per_epoch"] = problem.steps_per_epoch
    result["matmul_gflop"] = flops / 1e9
    result["best_matmul_gflop_per_s"] = rate / 1e9
    result["roofline"] = flops / rate * 1e3 / result["step_ms"]

    started = time.perf_counter()
    result |= time_epoch_start(problem, min(sampled_users, dataset.n_users), repeats)
    passed("epoch_started", started)

    started = time.perf_counter()
    sample = dataclasses.replace(dataset, test=dataset.test[:sampled_users])
    sampled = problem._replace(dataset=sample)
    evaluation = time_evaluation(sampled, state, repeats, None, rate)
    result["eval_ms_per_1000_users"] = evaluation["ms_per_1000_users"]
    result["embed_ms"] = evaluation["embed_ms"]
    passed("evaluated", started)

    result |= memory()
    if profile and isinstance(problem.method, Benchmarked):
        run, scopes = compile_training(problem).steps, problem.method.SCOPES
        state, _ = run(state, steps)
        program = compiled_program(scopes[-1])
        result["time_share"] = scope_shares(
            program, lambda: run(state, steps), scopes, f"{profile}/{n_items}"
        )
    started = time.perf_counter()
    dataset.fingerprint()
    result["fingerprint_s"] = time.perf_counter() - started
    return result


def time_steps(
    problem: Problem, state: TrainState, steps: int, repeats: int
) -> tuple[TrainState, float, float]:
    """The state afterwards, ms of the first scan of steps (which compiles), median ms of a step."""
    run = compile_training(problem).steps

    def scan() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(run(state, steps))

    first_ms = timed_ms(scan)
    step_ms = median_ms(scan, repeats, warm_up=0) / steps
    return state, first_ms, step_ms


def time_epoch_start(problem: Problem, n_users: int, repeats: int) -> Result:
    """What comes once an epoch, such as a rebuild of graphs, for the first `n_users` users alone:
    per user, and per step if all users are in it.

    The forward pass before it, whose cost is not in proportion to the users, is taken off.
    """
    few = first_users(problem.dataset, n_users)
    sample = load_problem(problem.config, few)
    state, options = new_state(sample), compiler_options(sample.devices[0].platform)
    start = jax.jit(in_float32(sample.method.start_epoch), compiler_options=options)
    embed = compile_embedding(sample)
    start_ms = median_ms(lambda: start(state.method, sample.inputs), repeats)
    embed_ms = median_ms(lambda: embed(state), repeats)
    per_user = max(0.0, start_ms - embed_ms) / n_users
    return {
        "epoch_start_ms_per_user": per_user,
        "epoch_start_ms_per_step": per_user * problem.dataset.n_users / problem.steps_per_epoch,
    }


def first_users(dataset: Dataset, n_users: int) -> Dataset:
    """The dataset with its first `n_users` users alone, and all items."""
    train, validation, test = (e[e[:, 0] < n_users] for e in dataset.splits.values())
    return dataclasses.replace(
        dataset, user_ids=dataset.user_ids[:n_users], train=train, validation=validation, test=test
    )


def slope(records: list[Result], key: str) -> float | None:
    """Least-squares slope of log figure over log items; None for fewer than two sizes."""
    points = [(math.log(r["items"]), math.log(r[key])) for r in records if r.get(key)]
    if len({x for x, _ in points}) < 2:
        return None
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def measure_in_process(arguments: list[str], n_items: int, limit_s: float) -> Result:
    """The figures of one size, from a process of its own; its failure is a record, too."""
    command = [sys.executable, "-m", "benchmarks.scale", *arguments, "--only", str(n_items)]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return {"items": n_items, "error": f"not done after {limit_s:g} s"}
    if done.returncode == -9:
        return {"items": n_items, "error": "killed by the system, most likely out of memory"}
    if done.returncode:
        return {"items": n_items, "error": f"exit status {done.returncode}"}
    found: Result = json.loads(done.stdout.splitlines()[-1])
    return found


def read_records(out: Path | None, settings: Result) -> list[Result]:
    """What an interrupted run has measured. Raises ConfigError if its settings were others."""
    if out is None or not out.exists():
        return []
    records = [json.loads(line) for line in out.read_text().splitlines() if line.strip()]
    for record in records:
        if record["settings"] != settings:
            raise ConfigError(
                f"{out} was measured with settings {record['settings']}, now they are {settings}; "
                "name another file with --out"
            )
    return records


def main(arguments: list[str] | None = None) -> None:
    """Measures all sizes that are not in `--out` yet, and prints them with their slopes."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = benchmark_parser("scale", arguments, 3)
    parser.add_argument("--items", type=str, default=",".join(map(str, SIZES)), help="sizes")
    parser.add_argument("--steps", type=PositiveInt, default=3, help="steps of one timed scan")
    parser.add_argument(
        "--sampled_users",
        type=PositiveInt,
        default=2048,
        help="users timed at an epoch's start and ranked",
    )
    parser.add_argument(
        "--block_entries", type=PositiveInt, default=2**27, help="most scores at once"
    )
    parser.add_argument("--limit_s", type=float, default=3600.0, help="seconds for one size")
    parser.add_argument("--out", type=str, default=None, help="JSONL file of finished sizes")
    parser.add_argument("--only", type=int, default=0, help="measure this size in this process")
    parser.set_defaults({"data.format": "synthetic"})
    config, parsed = parse_config(parser, arguments)
    options = {name: parsed[name] for name in OPTIONS}
    try:
        validate(config)
        if parsed.only:
            print(json.dumps(measure_size(config, parsed.only, **options)))
            return
        default = flatten(type(config)())
        changed = {key: value for key, value in flatten(config).items() if value != default[key]}
        # As they come back from the file.
        settings = json.loads(json.dumps({"method": config.method, **changed, **options}))
        out = Path(parsed.out) if parsed.out else None
        records = read_records(out, settings)
    except USER_ERRORS as error:
        leave(error)
    sizes = [int(float(text)) for text in parsed["items"].split(",")]
    for n_items in sizes:
        if any(record["items"] == n_items for record in records):
            continue
        record = {**measure_in_process(arguments, n_items, parsed.limit_s), "settings": settings}
        records.append(record)
        if out:
            with out.open("a") as file:
                file.write(json.dumps(record) + "\n")
    chosen = [record for record in records if record["items"] in sizes]
    slopes = {
        f"slope_{key}": slope(chosen, key)
        for key in ("step_ms", "stepped_peak_rss_mib", "epoch_start_ms_per_user")
    }
    figures = {str(record["items"]): record for record in chosen}
    show({**slopes, "sizes": figures, "hardware": hardware()}, parsed.json)


if __name__ == "__main__":
    main()
