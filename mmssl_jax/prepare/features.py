"""Ready features keyed by raw item id, aligned to the items."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.messages import shown
from mmssl_jax.prepare.content import Content, report_of
from mmssl_jax.prepare.ids import refuse_repeats
from mmssl_jax.prepare.vectors import read_vectors


def feature_content(item_ids: Sequence[str], file: str, id_column: str) -> Content:
    """The rows of the items in `file`; an item without a row, or of only NaN, lacks the modality.

    file: FILE.npz, FILE.parquet or FILE.npy@IDS. Rows of other items are looked at, not used.
    Raises DatasetError for a file that cannot be used.
    """
    ids, width, parts = read_vectors(file, id_column)
    refuse_repeats(ids, file)
    place = {raw: number for number, raw in enumerate(item_ids)}
    features = np.zeros((len(item_ids), width), np.float32)
    present = np.zeros(len(item_ids), bool)
    done = 0
    for part in parts:
        here = ids[done : done + len(part)]
        rows, is_there = _checked(part, here, file)
        pairs = [(k, place[raw]) for k, raw in enumerate(here) if is_there[k] and raw in place]
        if pairs:
            source, target = np.array(pairs).T
            features[target], present[target] = rows[source], True
        done += len(part)
    known = set(ids)
    reasons = {
        "no_row": [raw for raw in item_ids if raw not in known],
        "only_nan": [
            raw for raw, there in zip(item_ids, present, strict=True) if raw in known and not there
        ],
    }
    report = report_of(item_ids, present, width, file, reasons)
    report["unused_rows"] = len(known.difference(item_ids))
    return Content(features, present, report)


def _checked(
    part: np.ndarray, ids: list[str], file: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Rows as float32, and which are not of NaN alone; raises DatasetError for other NaNs."""
    with np.errstate(over="ignore"):  # what overflows becomes infinite, which is refused here
        rows = np.asarray(part).astype(np.float32)
    absent = np.asarray(np.isnan(rows).all(axis=1))
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1) & ~absent)
    if len(wrong):
        raise DatasetError(
            f"{file}: NaN, infinite or too large values among numbers, the first is of item "
            f"{shown(ids[wrong[0]])}; expected finite numbers of 32 bits, or NaN in the whole row "
            "of an item that lacks the modality"
        )
    return rows, ~absent
