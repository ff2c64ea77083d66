"""What a training step costs by formula; `docs/scaling.md` explains, the tests check.

`python -m benchmarks.costs --U 100e6 --I 10e6 --E 1e9 --L 1e9 --N 256` evaluates the formulas.
"""

import argparse
from typing import NamedTuple

import jax.numpy as jnp

from benchmarks.measure import show
from benchmarks.propagate import EDGE, FLOAT, propagation_bytes
from mmssl_jax.methods.mmssl.config import MMSSLConfig, preset_config
from mmssl_jax.methods.mmssl.fast.row_blocks import ROWS_AT_ONCE
from mmssl_jax.methods.mmssl.game.critic import hidden_widths
from mmssl_jax.methods.mmssl.game.real_rows import soft_form
from mmssl_jax.methods.mmssl.state import Setup, learned_edges_length

MEANINGS = {
    "U": "users",
    "I": "items",
    "E": "training interactions",
    "L": "places of a modality's learned graph",
    "B": "batch over all devices",
    "D": "width of the embeddings",
    "H": "attention heads",
    "G": "rounds of the light GCN",
    "M": "modalities",
    "F": "feature widths together",
    "H1": "the critic's first hidden width",
    "H2": "its second one",
    "N": "devices",
}


class Shape(NamedTuple):
    """The numbers that a step's cost depends on, as in `MEANINGS`; the defaults are the paper
    preset's."""

    U: int
    I: int  # noqa: E741
    E: int
    L: int
    B: int = 1024
    D: int = 64
    H: int = 4
    G: int = 2
    M: int = 2
    F: int = 256
    H1: int = 512
    H2: int = 256
    N: int = 1


def shape_of(setup: Setup, feature_widths: int, n_modalities: int) -> Shape:
    """The shape of a configured problem on one device, for a critic of two hidden layers."""
    config, sizes = setup.config, setup.sizes
    h1, h2 = hidden_widths(config.critic, sizes.n_items)
    return Shape(
        U=sizes.n_users,
        I=sizes.n_items,
        E=sizes.n_train,
        L=learned_edges_length(setup),
        B=config.sampling.batch_size,
        D=config.model.dim,
        H=config.model.heads,
        G=config.model.gnn_layers,
        M=n_modalities,
        F=feature_widths,
        H1=h1,
        H2=h2,
    )


def step_matmul_flops(config: MMSSLConfig, s: Shape) -> dict[str, int]:
    """FLOPs of one device's matrix products in one step, both passes, per component.

    For the adversarial game with one shared forward pass, without a rebuild. Products with a single
    vector are left out.
    """
    batch = s.B // s.N
    factors = 2 * (s.I + batch) * s.D * s.H1  # V^T W, and the users times it
    grams = 2 * (s.I + batch) * s.D**2  # V^T V, and the users times it
    layer = 2 * s.M * batch * s.H1 * s.H2
    per_node = 6 * s.H * s.D**2
    if config.model.attention_values == "keys":
        per_node += 12 * s.M * s.D**2 + 4 * s.M**2 * s.D * s.H
    softened = config.game.real_rows == "gumbel"
    real_rows = grams + (2 * factors if softened and config.game.score_weight else 0)
    if softened and soft_form(config.game, s.I, jnp.float32) == "dense":
        real_rows += 4 * batch * s.I * s.H1 + 2 * batch * s.I * s.D
    # Blocks of nodes compute their forward pass anew in the backward pass.
    nodes = sum(n + (n / 3 if n > ROWS_AT_ONCE else 0) for n in (s.U, s.I))
    return {
        "encoders": 4 * s.I * s.F * s.D,
        "attention": round(nodes * per_node),
        "contrastive": 12 * s.M * batch * s.B * s.D if config.loss.contrastive else 0,
        "generated_rows": s.M * (4 * grams + 4 * factors + 2 * batch * s.D * s.H1),
        "real_rows": real_rows,
        "gradient_penalty": 6 * layer
        + 4 * s.I * s.H1**2  # W^T W, and the kernel's gradient from it
        + 4 * s.M * batch * s.H1**2,  # delta W^T W, and the gram matrix's gradient from it
        "critic_layers": 8 * layer,
    }


def rebuild_matmul_flops(s: Shape) -> int:
    """FLOPs of the scores of all users and items in a rebuild, which the top-k selects from."""
    return 2 * s.M * s.U * s.I * s.D


def step_propagation_bytes(s: Shape) -> dict[str, int]:
    """Least bytes of one device's message passing in one step, both passes, per component."""

    def both_ways(edges: int, width: int) -> int:
        passes = propagation_bytes(edges, s.U, width) + propagation_bytes(edges, s.I, width)
        return 2 * passes

    return {
        "encoders": s.M * both_ways(s.E, s.D),
        "learned_graphs": s.M * both_ways(s.L, s.D),
        "light_gcn": s.G * both_ways(s.E, s.D),
    }


def generator_parameters(s: Shape) -> int:
    """Numbers in the generator: ID embeddings, encoders with biases, Q, K and the output."""
    return (s.U + s.I + s.F + s.M) * s.D + (2 + s.H) * s.D**2


def critic_parameters(s: Shape) -> int:
    """Numbers in the critic: three layers with biases, two normalisations."""
    return (s.I + 3 + s.H2) * s.H1 + 3 * s.H2 + s.H2 + 1


def optimizer_bytes(s: Shape) -> int:
    """Bytes of both optimizers in one step: parameter, gradient and two moments read, three of
    them written."""
    return 7 * FLOAT * (generator_parameters(s) + critic_parameters(s))


def state_bytes(s: Shape) -> dict[str, int]:
    """Bytes that every device holds between two steps, without gradients and work arrays."""
    return {
        "generator and its moments": 3 * FLOAT * generator_parameters(s),
        "critic and its moments": 3 * FLOAT * critic_parameters(s),
        "features": FLOAT * s.I * s.F,
        "observed graphs and rows": 4 * EDGE * s.E + 2 * FLOAT * s.E,
        "learned graphs": 2 * s.M * EDGE * s.L,
    }


def collective_bytes(s: Shape) -> dict[str, int]:
    """Bytes of the arrays that collectives of one step act on, over N devices.

    A ring moves 2 (N - 1) / N of these through each device for a sum, (N - 1) / N for a gather.
    The contrastive gather has a scattered sum of the same size in its gradient (without the ids).
    """
    return {
        "gradients, summed": FLOAT * (generator_parameters(s) + critic_parameters(s)),
        "contrastive, gathered": FLOAT * s.M * s.B * (2 * s.D + 1),
        "contrastive, summed and scattered": FLOAT * s.M * s.B * 2 * s.D,
    }


def spread_state_bytes(s: Shape) -> dict[str, int]:
    """Bytes that each device holds between two steps where rows are spread."""
    by_row = (s.U + s.I) * s.D, s.I * s.H1
    spread = {
        "tables, kernel, moments": 3 * FLOAT * sum(by_row),
        "features": FLOAT * s.I * s.F,
        "observed and learned graphs": (4 * s.E + 2 * s.M * s.L) * EDGE,
    }
    whole = {
        "small weights and moments": 3
        * FLOAT
        * (generator_parameters(s) + critic_parameters(s) - sum(by_row)),
        "interactions by user": FLOAT * (3 * s.E + 3 * s.U + s.I),
    }
    return {name: size // s.N for name, size in spread.items()} | whole


def spread_collective_bytes(s: Shape) -> dict[str, int]:
    """Bytes of the arrays of all items that collectives of one step gather, and add up and scatter,
    where rows are spread; those of a batch are small beside them.

    As traced; the compiler leaves out gathers of what is gathered already, 2 M + 1 of them.
    """
    of_items = FLOAT * s.I * s.D
    return {
        "gathered": (2 * s.G + 6 * s.M + 1) * of_items,
        "summed and scattered": (2 * s.G + 4 * s.M) * of_items,
    }


def costs(s: Shape) -> dict[str, dict[str, int] | int]:
    """All formulas at one shape, for the paper preset."""
    return {
        "matmul_flops": step_matmul_flops(preset_config("paper"), s),
        "rebuild_matmul_flops": rebuild_matmul_flops(s),
        "propagation_bytes": step_propagation_bytes(s),
        "optimizer_bytes": optimizer_bytes(s),
        "state_bytes": state_bytes(s),
        "collective_bytes": collective_bytes(s),
        "spread_state_bytes": spread_state_bytes(s),
        "spread_collective_bytes": spread_collective_bytes(s),
    }


def main(arguments: list[str] | None = None) -> None:
    """Prints the formulas at the sizes given."""
    parser = argparse.ArgumentParser("benchmarks.costs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for name in Shape._fields:
        default = Shape._field_defaults.get(name)
        parser.add_argument(
            f"--{name}",
            type=lambda text: int(float(text)),
            default=default,
            required=default is None,
            help=MEANINGS[name] + (f" (default {default:,})" if default else ""),
        )
    parsed = vars(parser.parse_args(arguments))
    as_json = parsed.pop("json")
    show(costs(Shape(**parsed)), as_json)


if __name__ == "__main__":
    main()
