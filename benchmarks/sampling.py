"""Drawing training batches on the device: `python -m benchmarks.sampling --data.path DIR`."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from jsonargparse.typing import PositiveInt

from benchmarks.measure import Result, benchmark_parser, median_ms, memory, run_benchmark, xla_flops
from benchmarks.scopes import scope_shares
from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.data.load import load_dataset
from mmssl_jax.graph.rows import InteractionRows, batch_edges, interaction_rows, most_batch_edges
from mmssl_jax.sampling import sample_batch

By = Literal["user", "interaction"]
SAMPLED_BY: tuple[By, ...] = ("user", "interaction")
SCOPES = ("sampling", "batch_edges")


def measure_sampling(
    config: Config, dataset: Dataset | None, repeats: int, profile: str | None, batches: int = 20
) -> Result:
    """Triples per second of batches drawn by user and by interaction, without and with the batch's
    edges, on one device.

    A time is the median over `repeats` of a scan of `batches` batches, divided by them. The edges
    are as many as the batches' users have, not the places that are kept for them.
    """
    dataset = dataset or load_dataset(config.data)
    batch_size, n_items = config.sampling.batch_size, dataset.n_items
    negatives = config.sampling.negatives
    rows = interaction_rows(dataset.train, dataset.n_users, n_items)
    degree = np.bincount(dataset.train[:, 0], minlength=dataset.n_users)
    keys = jax.random.split(jax.random.key(config.train.seed), batches)
    result: Result = {"batch_size": batch_size}
    for by in SAMPLED_BY:
        places = most_batch_edges(degree, batch_size, 1, by == "interaction")

        # The sums keep the compiler from leaving the draws out.
        @jax.jit
        def triples(rows: InteractionRows, by: By = by) -> tuple:
            def one_batch(total: tuple, key: Array) -> tuple[tuple, None]:
                with jax.named_scope("sampling"):
                    batch = sample_batch(key, rows, batch_size, n_items, by, negatives)
                return jax.tree.map(lambda t, b: t + jnp.sum(b), total, tuple(batch)), None

            return jax.lax.scan(one_batch, (jnp.int32(0),) * 3, keys)[0]

        @jax.jit
        def with_edges(rows: InteractionRows, by: By = by, places: int = places) -> tuple:
            def one_batch(total: tuple, key: Array) -> tuple[tuple, None]:
                with jax.named_scope("sampling"):
                    batch = sample_batch(key, rows, batch_size, n_items, by, negatives)
                with jax.named_scope("batch_edges"):
                    edges = batch_edges(rows, batch.users, places)
                leaves = (*batch, *edges)
                return jax.tree.map(lambda t, b: t + jnp.sum(b), total, leaves), None

            return jax.lax.scan(one_batch, (jnp.int32(0),) * 8, keys)[0]

        draw_ms = median_ms(partial(triples, rows), repeats) / batches
        edges_ms = median_ms(partial(with_edges, rows), repeats) / batches
        per_batch = float(with_edges(rows)[-1]) / batches
        compiled = with_edges.lower(rows).compile()
        result |= {
            f"{by}_draw_ms": draw_ms,
            f"{by}_triples_per_s": batch_size / draw_ms * 1e3,
            f"{by}_draw_and_edges_ms": edges_ms,
            f"{by}_triples_with_edges_per_s": batch_size / edges_ms * 1e3,
            f"{by}_edges_per_batch": per_batch,
            f"{by}_edge_places": places,
            f"{by}_xla_mflop": xla_flops(compiled) / 1e6,
            f"{by}_time_share": scope_shares(
                compiled.as_text() or "",
                partial(compiled, rows),
                SCOPES,
                profile and f"{profile}/{by}",
            ),
        }
    return {**result, **memory()}


def main(arguments: list[str] | None = None) -> None:
    """Parses the flags, measures and prints."""
    parser = benchmark_parser("sampling", arguments)
    parser.add_argument("--batches", type=PositiveInt, default=20, help="batches of one timed scan")
    run_benchmark(parser, measure_sampling, ("batches",), arguments)


if __name__ == "__main__":
    main()
