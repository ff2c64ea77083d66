"""What can be seen of features without training: what is missing, repeated, constant; their scale.

Legend: I items, F feature width.
"""

from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from mmssl_jax.data.dataset import Dataset


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
    rows = dataset.features[modality]
    present = dataset.presence.get(modality)
    rows = rows if present is None else rows[present]
    norms = np.sqrt(np.einsum("if,if->i", rows, rows, dtype=np.float64))
    return Facts(
        width=rows.shape[1],
        missing=dataset.missing_rate(modality),
        zero=int(np.count_nonzero(norms == 0)),
        repeated=repeated_rows(rows[norms > 0]),
        constant=int(np.count_nonzero(rows.min(axis=0) == rows.max(axis=0))),
        norms=tuple(np.quantile(norms, (0.05, 0.5, 0.95)).tolist()),
    )


def repeated_rows(rows: np.ndarray) -> int:
    """How many rows stand more than once, counting all of their places."""
    # Digests in place of rows keep the memory small; adding 0 makes -0 and 0 one value.
    digests = [blake2b((row + 0.0).tobytes(), digest_size=16).digest() for row in rows]
    _, counts = np.unique(np.array(digests, "V16"), return_counts=True)
    return int(counts[counts > 1].sum())
