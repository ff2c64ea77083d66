"""ItemKNN: Deshpande and Karypis, "Item-Based Top-N Recommendation Algorithms", ACM TOIS 22(1),
2004. Nothing is trained: a user's items recommend the items nearest to them.

    score of u and i = sum over u's training items j of w_ji
    w_ji = s_ji for the k items i that are nearest to j, by largest s_ji > 0, and 0 for the others

s is one of these; for `both`, w is (1 - content_weight) w of the first + content_weight w of the
second, each divided by the mean of its weights above 0:

    cooccurrence   c_j . c_i / (|c_j| |c_i| + shrinkage)   c_i the column of item i in the training
                                                           matrix, rows of length 1 if unit_users
    content        sum over modalities m that both have of cos(f_jm, f_im) / sqrt(M_j M_i)

with M_i the number of modalities of i: the cosine of all features side by side, each modality's of
length 1. It is the mean of the modalities' cosines where both items have all, and less where one is
known by fewer. Items without any modality are nobody's neighbours by content.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveInt

from mmssl_jax.config import Config, DataConfig, TrainConfig
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.cooccurrence import Entries, gram_of, gram_rows, largest_entries
from mmssl_jax.graph.item_graph import item_features, nearest_items, rewired
from mmssl_jax.method import ItemWeights
from mmssl_jax.methods.closed import Closed, require_features, require_room
from mmssl_jax.norms import unit_rows

ITEMS_AT_ONCE = 256
Near = tuple[Int[Array, "I K"], Float[Array, "I K"]]  # each item's nearest, and their weights


@dataclass(frozen=True)
class ItemKNNSettings:
    """What makes items near, and how many of the nearest count."""

    by: Literal["cooccurrence", "content", "both"] = "cooccurrence"
    """Items of the same users, items of like features, or both."""
    k: PositiveInt = 200
    """Nearest items of each item, by co-occurrence."""
    unit_users: bool = True
    """Whether a user with many items tells less: rows of the training matrix of length 1."""
    shrinkage: NonNegativeFloat = 300.0
    """Added to the cosine's denominator, against cosines that few users tell of."""
    content_k: PositiveInt = 10
    """Nearest items of each item, by content."""
    content_weight: ClosedUnitInterval = 0.8
    """Share of the content's weights, for `both`."""


@dataclass(frozen=True)
class ItemKNNConfig(Config):
    """All settings of ItemKNN."""

    method: str = "itemknn"
    """Method to train. Each has its own settings: --method NAME --help."""
    itemknn: ItemKNNSettings = field(default_factory=ItemKNNSettings)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=1))


def nearest_by_users(dataset: Dataset, settings: ItemKNNSettings) -> Near:
    """Of each item, the k items of the largest shrunk cosine of their users; 0 fills up."""
    users, items = dataset.train.T
    n_items, k, blocks = dataset.n_items, min(settings.k, dataset.n_items), []
    degree = np.bincount(users, minlength=dataset.n_users)[users]
    values = degree**-0.5 if settings.unit_users else np.ones(len(users))
    gram = gram_of(dataset.train, values, dataset.n_users, n_items)
    length = np.sqrt(np.bincount(items, values**2, minlength=n_items))
    for first in range(0, n_items, ITEMS_AT_ONCE):
        last = min(first + ITEMS_AT_ONCE, n_items)
        rows, columns, products = gram_rows(gram, first, last)
        # Items with an entry have users, so that no length is 0.
        cosine = products / (length[rows + first] * length[columns] + settings.shrinkage)
        others = columns != rows + first
        entries = Entries(rows[others], columns[others], cosine[others])
        blocks.append(largest_entries(entries, last - first, k))
    neighbours, weights = (jnp.concatenate(each) for each in zip(*blocks, strict=True))
    return neighbours, weights


def content_rows(dataset: Dataset) -> Float[Array, "I F"]:
    """Features of all modalities side by side, each of length 1; zeros for what an item lacks."""
    return jnp.concatenate([unit_rows(x) for x in item_features(dataset).values()], axis=1)


def nearest_by_content(dataset: Dataset, k: int, data: DataConfig) -> Near:
    """Of each item, the k items of the largest cosine of features; 0 fills up."""
    nearest = nearest_items(content_rows(dataset), k, itself=False)
    if data.neighbours == "random":
        nearest = rewired(nearest, np.random.default_rng(data.seed), itself=False)
    return nearest.items, jnp.maximum(nearest.cosine, 0.0)  # 0 where none was found


def of_mean_1(weights: Float[Array, "I K"]) -> Float[Array, "I K"]:
    """Weights divided by the mean of those above 0, so that kinds of them can be mixed."""
    return weights * (jnp.sum(weights > 0) / jnp.maximum(jnp.sum(weights), 1e-30))


@dataclass(frozen=True)
class ItemKNN(Closed):
    """ItemKNN behind the contract of `mmssl_jax/method.py`."""

    TITLE: ClassVar[str] = "ItemKNN"
    CONFIG: ClassVar[type[Config]] = ItemKNNConfig
    SPACE: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "itemknn.by": {"choices": ["cooccurrence", "both"]},
        "itemknn.k": {"low": 10, "high": 200, "log": True},
        "itemknn.shrinkage": {"choices": [0.0, 10.0, 100.0, 300.0]},
    }

    @classmethod
    def check(cls, config: ItemKNNConfig, dataset: Dataset) -> None:
        """Raises ConfigError for weights that take too much room, and for lack of features."""
        settings = config.itemknn
        kept = {"cooccurrence": settings.k, "content": settings.content_k}
        for kind, k in kept.items():
            if settings.by in (kind, "both"):
                name = "itemknn.k" if kind == "cooccurrence" else "itemknn.content_k"
                require_room(dataset.n_items, min(k, dataset.n_items), name)
        if settings.by != "cooccurrence":
            require_features(config, dataset, f"itemknn.by is {settings.by}")

    def inputs(self, dataset: Dataset) -> ItemWeights:
        """The nearest items of each; those of both kinds side by side, whose weights add up."""
        settings, share = self.config.itemknn, float(self.config.itemknn.content_weight)
        if settings.by == "content":
            return ItemWeights(*nearest_by_content(dataset, settings.content_k, self.config.data))
        by_users = nearest_by_users(dataset, settings)
        if settings.by == "cooccurrence":
            return ItemWeights(*by_users)
        by_content = nearest_by_content(dataset, settings.content_k, self.config.data)
        return ItemWeights(
            jnp.concatenate([by_users[0], by_content[0]], axis=1),
            jnp.concatenate(
                [(1 - share) * of_mean_1(by_users[1]), share * of_mean_1(by_content[1])], axis=1
            ),
        )
