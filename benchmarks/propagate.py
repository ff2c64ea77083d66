"""Message passing over a dataset's graph: `python -m benchmarks.propagate --data.path DIR`."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from jsonargparse.typing import PositiveInt

from benchmarks.measure import Result, benchmark_parser, median_ms, memory, run_benchmark
from benchmarks.scopes import keep_trace
from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.data.load import load_dataset
from mmssl_jax.graph.bipartite import BipartiteGraph, observed_graph
from mmssl_jax.graph.propagate import propagate

FLOAT, EDGE = 4, 12  # bytes of a number; of an edge: sender, receiver, weight
Sides = tuple[Float[Array, "U D"], Float[Array, "I D"]]


def propagation_bytes(edges: int, receivers: int, width: int) -> int:
    """Least bytes of one pass over directed edges: each edge and its sender's row once, each
    receiver's row once. The gradient reads receivers and writes senders, and costs the same."""
    return edges * (EDGE + width * FLOAT) + receivers * width * FLOAT


def both_ways(graph: BipartiteGraph, sides: Sides) -> Sides:
    """One round: users gather from items, and items from users."""
    users, items = sides
    return propagate(graph.to_users, items, len(users)), propagate(
        graph.to_items, users, len(items)
    )


def measure_propagation(
    config: Config, dataset: Dataset | None, repeats: int, profile: str | None, width: int = 64
) -> Result:
    """Times, edges per second and least GB per second of a round both ways, on one device.

    The gradient is with respect to the vectors. An edge counts once for each pass over it, whatever
    the vectors' width; bytes are those of `propagation_bytes`, so that intermediate results that go
    to memory make the rate look lower than the memory's.
    """
    dataset = dataset or load_dataset(config.data)
    n_users, n_items, edges = dataset.n_users, dataset.n_items, len(dataset.train)
    graph = observed_graph(dataset.train, n_users, n_items, "symmetric")
    sides = (
        jax.random.normal(jax.random.key(0), (n_users, width)),
        jax.random.normal(jax.random.key(1), (n_items, width)),
    )
    forward = jax.jit(both_ways)
    gradient = jax.jit(
        lambda graph, sides, like: jax.vjp(partial(both_ways, graph), sides)[1](like)
    )
    like = jax.tree.map(jnp.ones_like, forward(graph, sides))
    n_bytes = propagation_bytes(edges, n_users, width) + propagation_bytes(edges, n_items, width)
    result: Result = {"users": n_users, "items": n_items, "edges": edges, "width": width}
    calls = {
        "forward": partial(forward, graph, sides),
        "gradient": partial(gradient, graph, sides, like),
    }
    for direction, call in calls.items():
        ms = median_ms(call, repeats)
        result[f"{direction}_ms"] = ms
        result[f"{direction}_edges_per_s"] = 2 * edges / ms * 1e3
        result[f"{direction}_gb_per_s"] = n_bytes / ms / 1e6
        if profile:
            keep_trace(call, f"{profile}/{direction}")
    return {**result, **memory()}


def main(arguments: list[str] | None = None) -> None:
    """Parses the flags, measures and prints."""
    parser = benchmark_parser("propagate", arguments, 10)
    parser.add_argument("--width", type=PositiveInt, default=64, help="width of the vectors")
    run_benchmark(parser, measure_propagation, ("width",), arguments)


if __name__ == "__main__":
    main()
