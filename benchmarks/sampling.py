"""Drawing training batches on the device: `python -m benchmarks.sampling --data.path DIR`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jsonargparse.typing import PositiveInt

from benchmarks.measure import Result, benchmark_parser, median_ms, memory, run_benchmark, xla_flops
from benchmarks.scopes import scope_shares
from mmssl_jax.config import Config, override
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.training.draws import draw, share_batch
from mmssl_jax.training.problem import load_problem
from mmssl_jax.training.state import Inputs, problem_sizes

SCOPES = ("sampling", "batch_edges")


def measure_sampling(
    config: Config, dataset: Dataset | None, repeats: int, profile: str | None, batches: int = 20
) -> Result:
    """Triples per second of batches drawn by user and by interaction, without and with the batch's
    edges, on one device.

    A time is the median over `repeats` of a scan of `batches` batches, divided by them. The edges
    are as many as the batches' users have, not the places that are kept for them.
    """
    problem = load_problem(config, dataset)
    inputs, key = problem.inputs, jax.random.key(config.train.seed)
    result: Result = {"batch_size": config.sampling.batch_size}
    for by in ("user", "interaction"):
        chosen = override(config, {"sampling.by": by})
        sizes = problem_sizes(problem.dataset, chosen, 1)

        # The sums keep the compiler from leaving the draws out.
        @jax.jit
        def triples(inputs: Inputs, config: Config = chosen, sizes: Any = sizes) -> Any:
            def one_batch(total: Any, step: Any) -> Any:
                with jax.named_scope("sampling"):
                    batch = draw(key, step, inputs, config, sizes).batch
                return jax.tree.map(lambda t, b: t + jnp.sum(b), total, tuple(batch)), None

            return jax.lax.scan(one_batch, (jnp.int32(0),) * 3, jnp.arange(batches))[0]

        @jax.jit
        def with_edges(inputs: Inputs, config: Config = chosen, sizes: Any = sizes) -> Any:
            def one_batch(total: Any, step: Any) -> Any:
                with jax.named_scope("sampling"):
                    draws = draw(key, step, inputs, config, sizes)
                with jax.named_scope("batch_edges"):
                    share = share_batch(draws, inputs, sizes, None)
                leaves = (*share.batch, *share.edges)
                return jax.tree.map(lambda t, b: t + jnp.sum(b), total, leaves), None

            return jax.lax.scan(one_batch, (jnp.int32(0),) * 7, jnp.arange(batches))[0]

        draw_ms = median_ms(partial(triples, inputs), repeats) / batches
        edges_ms = median_ms(partial(with_edges, inputs), repeats) / batches
        per_batch = float(with_edges(inputs)[-1]) / batches
        compiled = with_edges.lower(inputs).compile()
        result |= {
            f"{by}_draw_ms": draw_ms,
            f"{by}_triples_per_s": config.sampling.batch_size / draw_ms * 1e3,
            f"{by}_draw_and_edges_ms": edges_ms,
            f"{by}_triples_with_edges_per_s": config.sampling.batch_size / edges_ms * 1e3,
            f"{by}_edges_per_batch": per_batch,
            f"{by}_edge_places": sizes.batch_edges,
            f"{by}_xla_mflop": xla_flops(compiled) / 1e6,
            f"{by}_time_share": scope_shares(
                compiled.as_text() or "",
                partial(compiled, inputs),
                SCOPES,
                profile and f"{profile}/{by}",
            ),
        }
    return {**result, **memory()}


def main(arguments: list[str] | None = None) -> None:
    """Parses the flags, measures and prints."""
    parser = benchmark_parser("sampling")
    parser.add_argument("--batches", type=PositiveInt, default=20, help="batches of one timed scan")
    run_benchmark(parser, measure_sampling, ("batches",), arguments)


if __name__ == "__main__":
    main()
