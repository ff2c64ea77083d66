"""`python -m mmssl_jax.data.check`: what the features of a dataset promise, in seconds."""

import sys
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from jsonargparse.typing import PositiveInt

from mmssl_jax.cli.errors import reported
from mmssl_jax.config import Config, DataConfig
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.data.facts import Facts, facts_of
from mmssl_jax.data.load import load_dataset, with_controls
from mmssl_jax.data.signal import (
    EXPECTATIONS,
    MOST_ITEMS,
    Neighbourhood,
    Ratio,
    Signal,
    light_interactions,
    signal_of,
)
from mmssl_jax.files import user_text
from mmssl_jax.graph.item_graph import centred, item_features, item_presence, nearest_of_queries
from mmssl_jax.run_config import convert
from mmssl_jax.settings_parser import SettingsParser

# Items whose neighbours are looked at: a larger catalogue is sampled.
MOST_SOURCES = 8192


class Checked(NamedTuple):
    """What a check found of one modality."""

    facts: Facts
    signal: Signal


def check_command(arguments: list[str] | None = None) -> None:
    """Parses the flags of `python -m mmssl_jax.data.check` and prints what it finds."""
    parser = check_parser()
    given = sys.argv[1:] if arguments is None else arguments
    parsed = parser.parse_args(given)
    settings = parsed.data.as_dict()
    if parsed.folder and settings["path"]:
        parser.error(f"two folders: {parsed.folder}, and --data.path {settings['path']}")
    settings["path"] = user_text(parsed.folder or settings["path"])
    with reported():
        config = convert(Config(data=DataConfig(**settings)))
        config.check()
        data = config.data
        dataset = with_controls(load_dataset(data), data)
    print(dataset.summary())
    edges = light_interactions(dataset, parsed.most_items)
    print(f"{f'interactions of users with at most {parsed.most_items}':<35}  {len(edges):,}\n")
    found = check_dataset(dataset, edges, parsed.k, data.seed)
    print(facts_table(found))
    print(f"\n{signal_table(found)}\n")
    for name, checked in found.items():
        print(f"{name}: {EXPECTATIONS[checked.signal.verdict]}")


def check_parser() -> SettingsParser:
    """A parser of the folder, of train.py's flags of data, and of what is looked at."""
    parser = SettingsParser(
        prog="python -m mmssl_jax.data.check",
        description="Tells before training how much more often items with like features share a "
        "user than chance would have it, and what is missing, repeated or constant in them.",
    )
    parser.settings_class = Config
    parser.add_argument("folder", nargs="?", type=str, default="", help="dataset folder")
    parser.add_class_arguments(DataConfig, "data", as_group=False)
    parser.add_argument(
        "--k", type=PositiveInt, default=10, help="nearest items of each that are looked at"
    )
    parser.add_argument(
        "--most_items",
        type=PositiveInt,
        default=MOST_ITEMS,
        help="users with more training interactions do not count, since they have most pairs",
    )
    return parser


def check_dataset(dataset: Dataset, edges: np.ndarray, k: int, seed: int) -> dict[str, Checked]:
    """{modality: facts and signal}.

    edges: the interactions that count. seed: of the sample of a large catalogue's items.
    """
    features, present = item_features(dataset), item_presence(dataset)
    found = {}
    for name in dataset.modalities:
        rows, _ = centred(features[name], present[name])
        near = neighbourhood(rows, k, np.random.default_rng([seed, 6]))
        found[name] = Checked(facts_of(dataset, name), signal_of(edges, near))
    return found


def neighbourhood(rows: Float[Array, "I F"], k: int, rng: np.random.Generator) -> Neighbourhood:
    """The k nearest by cosine of the items with a row that is not zero, or of a sample of them."""
    known = np.asarray(jnp.any(rows != 0, axis=1))
    sources = np.flatnonzero(known)
    if len(sources) > MOST_SOURCES:
        sources = np.sort(rng.choice(sources, MOST_SOURCES, replace=False))
    if not len(sources):
        nothing = np.zeros((0, k), np.int64)
        return Neighbourhood(sources, nothing, nothing.astype(bool), known)
    nearest = nearest_of_queries(rows[sources], rows, k + 1)
    items, found = np.asarray(nearest.items), np.array(nearest.found)
    found &= items != sources[:, None]
    found &= np.cumsum(found, axis=1) <= k  # one too many where the item itself was not among them
    return Neighbourhood(sources, items, found, known)


def facts_table(found: dict[str, Checked]) -> str:
    """A row per modality of what its features are like."""
    rows = [["modality", "width", "missing", "zero", "repeated", "constant columns", "norms"]]
    for name, (facts, _) in found.items():
        low, middle, high = facts.norms
        rows.append(
            [
                name,
                f"{facts.width:,}",
                f"{facts.missing:.2%}",
                f"{facts.zero:,}",
                f"{facts.repeated:,}",
                f"{facts.constant:,}",
                f"{middle:.3g} ({low:.3g} to {high:.3g})",
            ]
        )
    return aligned(rows)


def signal_table(found: dict[str, Checked]) -> str:
    """A row per modality of how often neighbours share a user, and random pairs."""
    rows = [["modality", "pairs", "share a user", "x random", "x degree-matched", "signal"]]
    for name, (_, signal) in found.items():
        rows.append(
            [
                name,
                f"{signal.pairs:,}",
                f"{signal.rate:.3%}" if signal.pairs else "-",
                ratio_text(signal.random),
                ratio_text(signal.matched),
                signal.verdict,
            ]
        )
    return aligned(rows)


def ratio_text(ratio: Ratio) -> str:
    """A ratio and twice its standard error."""
    if np.isnan(ratio.value):
        return "-"
    return f"{ratio.value:.2f} +- {2 * ratio.error:.2f}"


def aligned(rows: list[list[str]]) -> str:
    """Rows of cells as lines, the first column to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
