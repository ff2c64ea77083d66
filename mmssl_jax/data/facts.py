"""What can be seen of features without training: what is missing, repeated, constant; their scale.

Legend: I items, F feature width.
"""

from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from mmssl_jax.data.dataset import Dataset

LARGEST = 1e4  # a value above it is out of scale
SMALLEST = 1e-6  # and so are features of which no value is above this one
MOST_UNEVEN = 1e6  # deviation of a column, as a multiple of the middle column's
MOST_SQUARED = float(np.sqrt(np.finfo(np.float32).max))


class Facts(NamedTuple):
    """Of one modality, over the items that have it but for `missing`.

    missing: share of the items that lack it. zero: items whose row is zero. repeated: items whose
    row, not zero, another item has too. constant: columns with one value. norms: 5 %, 50 % and 95 %
    quantiles of the rows' lengths.
    """

    width: int
    missing: float
    zero: int
    repeated: int
    constant: int
    norms: tuple[float, float, float]


def facts_of(dataset: Dataset, modality: str) -> Facts:
    """The facts of a modality that some item has."""
    rows = _present_rows(dataset, modality)
    norms = np.sqrt(np.einsum("if,if->i", rows, rows, dtype=np.float64))
    return Facts(
        width=rows.shape[1],
        missing=dataset.missing_rate(modality),
        zero=int(np.count_nonzero(norms == 0)),
        repeated=repeated_rows(rows[norms > 0]),
        constant=int(np.count_nonzero(rows.min(axis=0) == rows.max(axis=0))),
        norms=tuple(np.quantile(norms, (0.05, 0.5, 0.95)).tolist()),
    )


def _present_rows(dataset: Dataset, modality: str) -> np.ndarray:
    """The rows of the items that have a modality."""
    rows, present = dataset.features[modality], dataset.presence.get(modality)
    return rows if present is None else rows[present]


def repeated_rows(rows: np.ndarray) -> int:
    """How many rows stand more than once, counting all of their places."""
    # Digests in place of rows keep the memory small; adding 0 makes -0 and 0 one value.
    digests = [blake2b((row + 0.0).tobytes(), digest_size=16).digest() for row in rows]
    _, counts = np.unique(np.array(digests, "V16"), return_counts=True)
    return int(counts[counts > 1].sum())


def scale_warnings(dataset: Dataset) -> list[str]:
    """A line for each modality whose features are out of scale, with what to do about it."""
    faults = {m: _scale_fault(_present_rows(dataset, m)) for m in dataset.modalities}
    return [
        f"warning: the features of modality {modality} are out of scale: {fault}; training may "
        f"diverge, or hear of little else; scale them, for instance each column to mean 0 and "
        f"deviation 1"
        for modality, fault in faults.items()
        if fault
    ]


def _scale_fault(rows: np.ndarray) -> str:
    """What is wrong with the scale of features [n, F], in words; nothing where nothing is."""
    high, low = float(rows.max()), float(rows.min())
    largest = max(high, -low)
    if largest > LARGEST:
        place = rows.argmax() if high == largest else rows.argmin()
        squares = ", of which float32 cannot hold the square" if largest > MOST_SQUARED else ""
        return f"values as large as {largest:.3g}{squares}, in column {place % rows.shape[1]}"
    if 0 < largest < SMALLEST:
        return f"no value larger than {largest:.3g}"
    deviations = _deviations(rows)
    varying = deviations[deviations > 0]
    if len(varying) and varying.max() > MOST_UNEVEN * np.median(varying):
        return (
            f"column {deviations.argmax()} varies {varying.max() / np.median(varying):.1g} times "
            "as much as the middle column"
        )
    return ""


def _deviations(rows: np.ndarray) -> np.ndarray:
    """Standard deviations of columns, float64 [F]; what rounding alone leaves is 0."""
    squares = np.einsum("if,if->f", rows, rows, dtype=np.float64) / len(rows)
    variances = squares - rows.mean(axis=0, dtype=np.float64) ** 2
    return np.sqrt(np.where(variances > 1e-12 * squares, variances, 0))
