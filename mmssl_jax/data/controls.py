"""Other features in place of an item's own: controls that show what the features are worth.

A method whose quality stays when its features become noise, or another item's, draws nothing from
what they say of an item. Every control is a pure function of the dataset and a seed, and leaves
interactions, sizes and widths as they are. Legend: I items, F feature width.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.data.dataset import Dataset, DatasetError

REAL = "real"


class Modality(NamedTuple):
    """Features [I, F], who has them [I], and the modality's number among those of the dataset."""

    features: NDArray[np.float32]
    present: NDArray[np.bool_]
    number: int


class Draw(NamedTuple):
    """What the controls are drawn with: the seed, and the share of items that are misplaced."""

    seed: int
    share: float = 0.0

    def shared(self) -> np.random.Generator:
        """Random numbers that are the same for all modalities."""
        return np.random.default_rng([self.seed, 4])

    def own(self, modality: Modality) -> np.random.Generator:
        """Random numbers of one modality."""
        return np.random.default_rng([self.seed, 5, modality.number])


def noise(modality: Modality, draw: Draw) -> Modality:
    """Normal noise with each column's mean and deviation over the items that have the modality;
    who has it stays."""
    known = modality.features[modality.present].astype(np.float64)
    normal = draw.own(modality).normal(size=modality.features.shape)
    rows = known.mean(axis=0)[None, :] + known.std(axis=0)[None, :] * normal
    rows = np.where(modality.present[:, None], rows, 0.0)
    return modality._replace(features=rows.astype(np.float32))


def shuffled(modality: Modality, draw: Draw) -> Modality:
    """Rows in another order, the same in all modalities; who has one moves along."""
    return _rows_of(modality, draw.shared().permutation(len(modality.features)))


def shuffled_each(modality: Modality, draw: Draw) -> Modality:
    """Rows in another order, one of this modality alone."""
    return _rows_of(modality, draw.own(modality).permutation(len(modality.features)))


def constant(modality: Modality, draw: Draw) -> Modality:
    """Every item gets the row of one, drawn among those whose row is not zero; who has it stays."""
    order = draw.shared().permutation(len(modality.features))
    speaks = modality.present & modality.features.any(axis=1)
    candidates = speaks if speaks.any() else modality.present
    chosen = order[candidates[order]][0]
    return modality._replace(features=np.tile(modality.features[chosen], (len(order), 1)))


def misplaced(modality: Modality, draw: Draw) -> Modality:
    """A share of the items gets the rows of other items, the same ones in all modalities; whether
    there is one comes along. A larger share misplaces the same items and more."""
    n_items, rng = len(modality.features), draw.shared()
    items = rng.permutation(n_items)[: max(1, round(draw.share * n_items))]
    # Steps of 1 to I - 1 around the circle of the items lead to another one.
    donors = np.arange(n_items) + rng.integers(1, n_items, size=n_items)
    source = np.arange(n_items)
    source[items] = donors[items] % n_items
    return _rows_of(modality, source)


CONTROLS: dict[str, Callable[[Modality, Draw], Modality]] = {
    "noise": noise,
    "shuffled": shuffled,
    "shuffled_each": shuffled_each,
    "constant": constant,
    "misplaced": misplaced,
}


def replace_features(
    dataset: Dataset, control: str, modalities: Sequence[str], draw: Draw
) -> Dataset:
    """The dataset with features as a control says.

    control: of CONTROLS, or "real" for the dataset itself. modalities: whose features are replaced;
    empty means all. Raises DatasetError for a modality that is not there.
    """
    if control == REAL:
        return dataset
    if not dataset.features:
        raise DatasetError(
            f"{dataset.source} has no features of items, so none can be replaced: leave "
            f"data.features out, which is {control}"
        )
    unknown = set(modalities) - set(dataset.modalities)
    if unknown:
        raise DatasetError(
            f"data.replaced names {sorted(unknown)}; {dataset.source} has "
            f"{list(dataset.modalities)}, or data.modalities leaves it out"
        )
    features, presence = dict(dataset.features), dict(dataset.presence)
    everywhere = np.ones(dataset.n_items, bool)
    for number, (name, rows) in enumerate(dataset.features.items()):
        if modalities and name not in modalities:
            continue
        before = Modality(rows, dataset.presence.get(name, everywhere), number)
        after = CONTROLS[control](before, draw)
        features[name] = after.features
        if name in presence:
            presence[name] = after.present
    replaced = dataclasses.replace(dataset, features=features, presence=presence)
    replaced.check()
    return replaced


def _rows_of(modality: Modality, source: NDArray[np.int64]) -> Modality:
    """Item i gets the row, and the presence, of item source[i]."""
    return modality._replace(features=modality.features[source], present=modality.present[source])
