"""What methods share that train nothing: weights between items, which a dataset gives at once."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from jaxtyping import Array, Key

from mmssl_jax.config import ConfigError
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.method import ItemWeights, Method, Metrics

MOST_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Closed(Method):
    """A method without parameters. A step does nothing, so that one epoch is all there is.

    A method defines `inputs`, whose weights are what ranks, and `check`.
    """

    WATCHED: ClassVar[tuple[str, ...]] = ()
    RATES: ClassVar[tuple[str, ...]] = ()

    config: Any
    axis: str | None = None

    @classmethod
    def build(cls, config: Any, dataset: Dataset, n_devices: int = 1) -> Self:
        """The method for a dataset. Raises ConfigError for settings that do not fit it."""
        del n_devices  # each of them has all weights
        cls.check(config, dataset)
        return cls(config)

    @classmethod
    def check(cls, config: Any, dataset: Dataset) -> None:
        """Raises ConfigError for settings that do not fit the dataset."""
        raise NotImplementedError

    def inputs(self, dataset: Dataset) -> ItemWeights:
        """The weights."""
        raise NotImplementedError

    def init(self, key: Key[Array, ""], inputs: ItemWeights) -> tuple[()]:
        """Nothing: a checkpoint holds no weights, which are made again."""
        del key, inputs
        return ()

    def step(
        self, state: tuple[()], key: Key[Array, ""], inputs: ItemWeights
    ) -> tuple[tuple[()], Metrics]:
        """Nothing."""
        del key, inputs
        return state, {}

    def embed(self, state: tuple[()], inputs: ItemWeights) -> ItemWeights:
        """The weights."""
        del state
        return inputs


def require_room(n_items: int, per_item: int, setting: str) -> None:
    """Raises ConfigError where `per_item` weights of each item take more than MOST_BYTES.

    per_item: 0 for the weights of all items.
    setting: what says how many are kept.
    """
    kept = per_item or n_items
    # Four bytes a weight, and as many for the name of its item unless all are there in order.
    size = n_items * kept * (8 if per_item else 4)
    if size > MOST_BYTES:
        fewer = MOST_BYTES // (8 * n_items)
        raise ConfigError(
            f"{n_items:,} items with {kept:,} weights each take {size / 2**30:.1f} GiB, more than "
            f"the {MOST_BYTES / 2**30:.0f} GiB that are allowed: set {setting} to at most "
            f"{fewer:,}, for instance {min(200, fewer)}"
        )


def require_features(config: Any, dataset: Dataset, setting: str) -> None:
    """Raises ConfigError where a setting asks for features and the dataset has none."""
    if not dataset.features:
        raise ConfigError(
            f"{setting}, but {dataset.source} has no features of items, by which {config.method} "
            "would find an item's nearest: add some, or leave the setting out"
        )
