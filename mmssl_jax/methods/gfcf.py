"""GF-CF: Shen et al., "How Powerful is Graph Convolution for Recommendation?", CIKM 2021
(arXiv 2108.07567). Nothing is trained: scores are a filter of a user's row of interactions.

With R the training matrix, D its degrees, A = D_U^-1/2 R D_I^-1/2, and V the right singular vectors
of A for its largest singular values:

    scores of user u = r_u D_I^-1/2 (A'A + alpha V V' + features S) D_I^popularity

The paper's form is popularity 1/2 and features 0. S is an addition: row j of S is 1/k at the k
nearest items of j by the cosine of a modality's features, averaged over the modalities that j has.

A has the singular value 1 once for each connected component of the graph. There may be more of them
than the rank, a user or two each, and then any of their mixtures is "the top of the spectrum". So
they count as one (`mmssl_jax/graph/spectrum.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt

from mmssl_jax.config import Config, TrainConfig
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.cooccurrence import gram_of, gram_rows
from mmssl_jax.graph.item_graph import Neighbours, mean_weights, modality_neighbours
from mmssl_jax.graph.spectrum import spectrum
from mmssl_jax.method import ItemWeights
from mmssl_jax.methods.closed import Closed, require_features, require_room

ENTRIES_AT_ONCE = 2**24  # of the rows that are made at a time


@dataclass(frozen=True)
class GFCFSettings:
    """The filter, and what is kept of it."""

    rank: PositiveInt = 64
    """Singular vectors in V; those of the value 1, one per connected component, count as one."""
    alpha: NonNegativeFloat = 0.3
    """Weight of V V'."""
    popularity: NonNegativeFloat = 0.5
    """Exponent of the degree of the item that is scored."""
    features: NonNegativeFloat = 0.0
    """Weight of the items' nearest by features; 0 reads no features."""
    feature_k: PositiveInt = 3
    """Nearest items of each item, by each modality."""
    keep: NonNegativeInt = 0
    """Largest weights kept of each item, at 8 bytes each; 0 keeps those of all items, which take
    4 x items x items bytes on every device."""


@dataclass(frozen=True)
class GFCFConfig(Config):
    """All settings of GF-CF."""

    method: str = "gfcf"
    """Method to train. Each has its own settings: --method NAME --help."""
    gfcf: GFCFSettings = field(default_factory=GFCFSettings)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=1))


def feature_entries(
    neighbours: Mapping[str, Neighbours],
) -> tuple[Int[np.ndarray, "I K"], Float[np.ndarray, "I K"]]:
    """S by its rows: columns and values, those of all modalities side by side."""
    weights = np.concatenate([np.asarray(mean_weights(n)) for n in neighbours.values()], axis=1)
    has = sum(np.asarray(n.found).any(axis=1).astype(np.float32) for n in neighbours.values())
    columns = np.concatenate([np.asarray(n.items) for n in neighbours.values()], axis=1)
    return columns, weights / np.maximum(has, 1)[:, None]


def filter_weights(
    dataset: Dataset,
    settings: GFCFSettings,
    seed: int,
    neighbours: Mapping[str, Neighbours],
) -> ItemWeights:
    """w = D_I^-1/2 (A'A + alpha V V' + features S) D_I^popularity, or the largest of each row.

    Items without interactions have degree 1 here: features alone lead to them.

    Args:
      seed: of the subspace in which singular vectors are looked for.
      neighbours: nearest items of each by modality, if features have a weight.
    """
    n_users, n_items = dataset.n_users, dataset.n_items
    edges = dataset.train
    users, items = (
        np.maximum(np.bincount(edges[:, side], minlength=n), 1).astype(np.float32)
        for side, n in enumerate((n_users, n_items))
    )
    values = (users[edges[:, 0]] * items[edges[:, 1]]) ** -0.5
    gram = gram_of(edges, values, n_users, n_items)
    found = spectrum(jax.random.key(seed), edges, n_users, n_items, settings.rank)
    vectors, (component, q) = np.asarray(found.vectors), found.components
    nearest = feature_entries(neighbours) if neighbours else None

    def rows(first: int, last: int) -> Float[np.ndarray, "B I"]:
        part = slice(first, last)
        same = component[part, None] == component[None, :]
        low = vectors[part] @ vectors.T + np.where(same, q[part, None] * q[None, :], 0.0)
        block = settings.alpha * low
        entries = gram_rows(gram, first, last)
        block[entries.rows, entries.columns] += entries.values
        if nearest is not None:
            columns, weights = (x[part] for x in nearest)
            # Adds up where an item is near by several modalities.
            np.add.at(
                block, (np.arange(last - first)[:, None], columns), settings.features * weights
            )
        return items[part, None] ** -0.5 * block * items[None, :] ** settings.popularity

    keep = min(settings.keep, n_items)
    size = max(1, ENTRIES_AT_ONCE // n_items)
    weights = np.empty((n_items, keep or n_items), np.float32)
    places = np.empty((n_items, keep), np.int32)
    for first in range(0, n_items, size):
        last = min(first + size, n_items)
        block = rows(first, last)
        if keep:
            places[first:last] = np.argpartition(-block, keep - 1, axis=1)[:, :keep]
            block = np.take_along_axis(block, places[first:last], axis=1)
        weights[first:last] = block
    return ItemWeights(jnp.asarray(places) if keep else None, jnp.asarray(weights))


@dataclass(frozen=True)
class GFCF(Closed):
    """GF-CF behind the contract of `mmssl_jax/method.py`."""

    TITLE: ClassVar[str] = "GF-CF"
    CONFIG: ClassVar[type[Config]] = GFCFConfig
    SPACE: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gfcf.alpha": {"choices": [0.0, 0.1, 0.3, 1.0]},
        "gfcf.popularity": {"low": 0.3, "high": 0.9, "step": 0.1},
        "gfcf.features": {"choices": [0.0, 0.02, 0.05, 0.1]},
    }

    @classmethod
    def check(cls, config: GFCFConfig, dataset: Dataset) -> None:
        """Raises ConfigError for weights that take too much room, and for lack of features."""
        keep = min(config.gfcf.keep, dataset.n_items)
        require_room(dataset.n_items, keep, "gfcf.keep")
        if config.gfcf.features:
            require_features(config, dataset, f"gfcf.features is {config.gfcf.features}")

    def inputs(self, dataset: Dataset) -> ItemWeights:
        """The filter's weights."""
        settings, neighbours = self.config.gfcf, {}
        if settings.features:
            data = self.config.data
            neighbours = modality_neighbours(dataset, settings.feature_k, False, data)
        return filter_weights(dataset, settings, self.config.train.seed, neighbours)
