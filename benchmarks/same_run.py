"""How far a run on N devices is that on one.

`python -m benchmarks.same_run --config configs/tiktok.yaml --data.path DIR --counts '[2,4,8]'`

Both train `--steps` steps from the same start, on devices of this host's processor. Compared are
the losses of every step, each difference relative to the loss on one device, the learned edges
before the first step, where there are any, and the users' 20 best items after the last.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jsonargparse.typing import PositiveInt

from benchmarks.devices import make_devices
from benchmarks.measure import Result, benchmark_parser, run_benchmark
from mmssl_jax.config import Config, override
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.method import Vectors
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_training

K = 20
USERS_AT_ONCE = 512


class Trained(NamedTuple):
    """What is compared: losses of each step, {modality: learned edges} and users' best items."""

    losses: list[dict[str, float]]
    edges: dict[str, set[tuple[int, int]]]
    lists: np.ndarray


def measure_same_run(
    config: Config,
    dataset: Dataset | None,
    repeats: int,
    profile: str | None,
    counts: tuple[int, ...] = (2, 4, 8),
    steps: int = 20,
) -> Result:
    """For each number of devices what `compare` finds, {"2": .., "4": ..}."""
    del repeats, profile  # nothing is timed
    make_devices(max(counts))
    one = train(override(config, {"parallel.devices": 1}), dataset, steps)
    return {
        str(count): compare(
            one, train(override(config, {"parallel.devices": count}), dataset, steps)
        )
        for count in counts
    }


def train(config: Config, dataset: Dataset | None, steps: int) -> Trained:
    """`steps` steps of one epoch."""
    problem = load_problem(config, dataset)
    training = compile_training(problem)
    state = training.start_epoch(training.lay_out(new_state(problem)))
    edges = learned_edges(training.make_whole(state).method)
    losses = []
    for _ in range(steps):
        state, metrics = training.steps(state, 1)
        losses.append({name: float(value) for name, value in metrics.items()})
    scorer = training.embed(state)
    assert isinstance(scorer, Vectors)  # of every method whose rows can be spread
    return Trained(losses, edges, best_items(scorer))


def learned_edges(state: Any) -> dict[str, set[tuple[int, int]]]:
    """(user, item) of the learned graph of each modality."""
    found = {}
    for modality, graph in getattr(state, "learned", {}).items():
        directed = graph.to_users
        users, items, weights = jax.device_get(
            (directed.receivers, directed.senders, directed.edges)
        )
        counts = weights > 0
        found[modality] = set(zip(users[counts].tolist(), items[counts].tolist(), strict=True))
    return found


def best_items(vectors: Vectors) -> np.ndarray:
    """The K items of highest score of each user, in the order of their numbers."""
    users, items = (np.asarray(side, np.float32) for side in vectors)
    lists = [
        np.sort(np.argpartition(-(users[i : i + USERS_AT_ONCE] @ items.T), K, axis=1)[:, :K])
        for i in range(0, len(users), USERS_AT_ONCE)
    ]
    return np.concatenate(lists)


def compare(one: Trained, many: Trained) -> Result:
    """The worst relative difference of a loss, and what of edges and lists differs."""
    worst, name, step = max(
        (abs(value - other[name]) / max(abs(value), 1e-6), name, step)
        for step, (losses, other) in enumerate(zip(one.losses, many.losses, strict=True))
        for name, value in losses.items()
    )
    return {
        "worst_loss": worst,
        "of": name,
        "step": step,
        "learned_edges": sum(map(len, one.edges.values())),
        "other_edges": sum(len(one.edges[m] - many.edges[m]) for m in one.edges),
        "same_lists": float(np.all(one.lists == many.lists, axis=1).mean()),
    }


def main(arguments: list[str] | None = None) -> None:
    """Parses the flags, measures and prints."""
    parser = benchmark_parser("same_run", arguments)
    parser.add_argument(
        "--counts", type=tuple[PositiveInt, ...], default=(2, 4, 8), help="numbers of devices"
    )
    parser.add_argument("--steps", type=PositiveInt, default=20, help="steps to train")
    run_benchmark(parser, measure_same_run, ("counts", "steps"), arguments)


if __name__ == "__main__":
    main()
