"""Message passing over a dataset's graphs: `python -m benchmarks.propagate --data.path DIR`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.costs import propagation_bytes
from benchmarks.measure import Result, benchmark_parser, median_ms, memory, run_benchmark
from benchmarks.scopes import keep_trace
from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.propagate import propagate
from mmssl_jax.model.encoders import propagate_features
from mmssl_jax.model.mmssl import propagate_ids
from mmssl_jax.parallel import in_float32
from mmssl_jax.training.problem import Problem, load_problem, new_state
from mmssl_jax.training.step import rebuild_if

Kind = tuple[Callable[[Any, Any], Any], Any, Any, int]


def kinds(problem: Problem) -> dict[str, Kind]:
    """{name: (function of (graphs, vectors), graphs, vectors, passes both ways)}."""
    config, sizes, inputs = problem.config, problem.sizes, problem.inputs
    state = new_state(problem)
    if config.structure.source == "all_users":
        state = jax.jit(
            in_float32(lambda s, inputs: rebuild_if(jnp.bool_(True), s, inputs, config, sizes))
        )(state, inputs)
    n_users, n_items, dim = sizes.n_users, sizes.n_items, config.model.dim
    users = jax.random.normal(jax.random.key(0), (n_users, dim))
    items = jax.random.normal(jax.random.key(1), (n_items, dim))

    def over_learned(graphs: Any, vectors: Any) -> Any:
        of_users, of_items = vectors
        return [
            (propagate(g.to_users, of_items, n_users), propagate(g.to_items, of_users, n_items))
            for g in graphs.values()
        ]

    n_modalities = len(inputs.features)
    return {
        "features": (
            lambda graph, encoded: propagate_features(graph, encoded, n_users),
            inputs.observed.features,
            dict.fromkeys(inputs.features, items),
            n_modalities,
        ),
        "ids": (
            lambda graph, vectors: propagate_ids(graph, vectors[0], vectors[1], config.model),
            inputs.observed.ids,
            (users, items),
            config.model.gnn_layers,
        ),
        "learned": (over_learned, state.learned, (users, items), n_modalities),
    }


def measure_propagation(
    config: Config, dataset: Dataset | None, repeats: int, profile: str | None
) -> Result:
    """Times, edges per second and least GB per second of each kind of propagation, on one device.

    The gradient is with respect to the vectors. An edge counts once for each pass over it, whatever
    the vectors' width; bytes are those of `costs.propagation_bytes`, so intermediate results that
    go to memory make the rate look lower than the memory's. `learned` counts all places of
    the learned graphs, filled or not.
    """
    problem = load_problem(config, dataset)
    result: Result = {"users": problem.sizes.n_users, "items": problem.sizes.n_items}
    for name, (function, graphs, vectors, passes) in kinds(problem).items():
        forward = jax.jit(function)
        like = jax.tree.map(jnp.ones_like, forward(graphs, vectors))

        @jax.jit
        def gradient(graphs: Any, vectors: Any, like: Any, function: Any = function) -> Any:
            return jax.vjp(lambda vectors: function(graphs, vectors), vectors)[1](like)

        one_graph = next(iter(graphs.values())) if name == "learned" else graphs
        edges = one_graph.to_users.edges.shape[0]
        width = config.model.dim
        n_bytes = passes * (
            propagation_bytes(edges, problem.sizes.n_users, width)
            + propagation_bytes(edges, problem.sizes.n_items, width)
        )
        calls: dict[str, Callable[[], Any]] = {
            "forward": partial(forward, graphs, vectors),
            "gradient": partial(gradient, graphs, vectors, like),
        }
        for direction, call in calls.items():
            ms = median_ms(call, repeats)
            key = f"{name}_{direction}"
            result[f"{key}_ms"] = ms
            result[f"{key}_edges_per_s"] = 2 * passes * edges / ms * 1e3
            result[f"{key}_gb_per_s"] = n_bytes / ms / 1e6
        result[f"{name}_edges"] = edges
        if profile:
            for direction, call in calls.items():
                keep_trace(call, f"{profile}/{name}_{direction}")
    return {**result, **memory()}


def main(arguments: list[str] | None = None) -> None:
    """Parses the flags, measures and prints."""
    run_benchmark(benchmark_parser("propagate", 10), measure_propagation, (), arguments)


if __name__ == "__main__":
    main()
