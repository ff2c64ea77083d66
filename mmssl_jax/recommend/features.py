"""Raw features of items: as a caller gives them, and of the dataset's own items.

A modality that no item has is left out; where some items lack it, their rows are NaN, as in the
ready features that `mmssl_jax.prepare` reads.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.messages import shown

Features = Mapping[str, ArrayLike]  # {modality: [n, F]}


def checked_features(
    features: Features, widths: Mapping[str, int]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """{modality: float32 [n, F]} and {modality: bool [n], who has it} of all the run's modalities.

    features: [n, F] of some modalities at least; a row of NaN says that the item lacks it.
    widths: F by modality. What items lack becomes 0.
    Raises DatasetError for other modalities or shapes, rows that are not finite, or an item that
    lacks every modality.
    """
    if not isinstance(features, Mapping):
        raise DatasetError(f"features are {shown(features)}, expected {{modality: [n, width]}}")
    arrays = {m: _numbers(m, raw) for m, raw in features.items()}
    given = {m: x for m, x in arrays.items() if m in widths}
    found = {m: x.shape for m, x in arrays.items()}
    fits = found.keys() <= widths.keys() and all(
        x.ndim == 2 and x.shape[1] == widths[m] for m, x in given.items()
    )
    if not fits or len({len(x) for x in given.values()}) != 1:
        shapes = ", ".join(f"{m}: [n, {width}]" for m, width in widths.items())
        raise DatasetError(
            f"features have shapes {shown(found)}, expected {{{shapes}}} with one n; leave "
            "a modality out that no item has"
        )
    n = len(next(iter(given.values())))
    lacking = {m: np.isnan(x).all(axis=1) for m, x in given.items()}
    for m, x in given.items():
        wrong = np.flatnonzero(~np.isfinite(x).all(axis=1) & ~lacking[m])
        if len(wrong):
            raise DatasetError(
                f"features of {m}: row {wrong[0]} is not finite; expected finite numbers, or NaN "
                "in the whole row of an item that lacks the modality"
            )
    raw = {m: np.zeros((n, width), np.float32) for m, width in widths.items()}
    present = {m: np.zeros(n, bool) for m in widths}
    for m, x in given.items():
        present[m] = np.logical_not(lacking[m])
        raw[m][present[m]] = x[present[m]]
    nothing = np.flatnonzero(~np.any(list(present.values()), axis=0))
    if len(nothing):
        raise DatasetError(
            f"item {nothing[0]} has none of the modalities {', '.join(widths)} ({len(nothing)} "
            "have none): an item of which nothing is known has no vector; leave such items out"
        )
    return raw, present


def _numbers(modality: str, raw: ArrayLike) -> np.ndarray:
    """float32; raises DatasetError for what holds anything but real numbers."""
    try:
        array = np.asarray(raw)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"they are {array.dtype}")
    except (ValueError, TypeError, OverflowError) as error:  # rows of different lengths
        raise DatasetError(
            f"features of {shown(modality)} are no array of numbers ({shown(str(error))}); "
            "expected one row of numbers for each item, all of one width"
        ) from error
    with np.errstate(over="ignore"):  # what overflows is infinite, and told as such
        return array.astype(np.float32)


def features_of(dataset: Dataset, items: np.ndarray) -> dict[str, np.ndarray]:
    """{modality: float32 [n, F]} of the dataset's items int [n], NaN where one lacks it."""
    features = {}
    for m, raw in dataset.features.items():
        rows = raw[items]
        if m in dataset.presence:
            rows = np.where(dataset.presence[m][items][:, None], rows, np.float32(np.nan))
        features[m] = rows
    return features


def has_any(dataset: Dataset) -> np.ndarray:
    """bool [I]: which items have a modality at all."""
    everyone, nobody = np.ones(dataset.n_items, bool), np.zeros(dataset.n_items, bool)
    having = [dataset.presence.get(m, everyone) for m in dataset.modalities]
    return np.any([nobody, *having], axis=0)
