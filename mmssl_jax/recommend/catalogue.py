"""What is ranked: items by raw id with a vector each, and new ones beside them."""

from collections import Counter
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.recommend.features import Features
from mmssl_jax.recommend.ids import Ids, listed, plain_ids


class NewItems(NamedTuple):
    """Items to be ranked by their features alone.

    ids: n different raw ids of the same type as the run's. One of the run's own items is ranked
    by its features in place of its trained vector. features: as in `recommend.features`, row i of
    every modality being item i.
    """

    ids: Ids
    features: Features


class Catalogue(NamedTuple):
    """ids [I]: raw ids. position_of: {raw id: position}. vectors: one each, of no
    width where the method has none."""

    ids: np.ndarray
    position_of: dict[Any, int]
    vectors: Float[Array, "I D"]


def extended(
    catalogue: Catalogue, new: Ids, vectors: Float[Array | np.ndarray, "n D"]
) -> Catalogue:
    """The catalogue with new items at its end; the known ones among them get the new vectors.

    Raises DatasetError for ids that are not one per vector, or not different ids of one type.
    """
    ids = _checked_ids(new, catalogue.ids, len(vectors))
    added = [raw for raw in ids if raw not in catalogue.position_of]
    positions = catalogue.position_of | {raw: len(catalogue.ids) + n for n, raw in enumerate(added)}
    room = jnp.pad(catalogue.vectors, ((0, len(added)), (0, 0)))
    places = np.array([positions[raw] for raw in ids], np.int32)
    kind = {"i": int, "u": int, "U": str}.get(catalogue.ids.dtype.kind, object)
    return Catalogue(
        ids=np.concatenate([catalogue.ids, np.array(added, kind)]),
        position_of=positions,
        vectors=room.at[places].set(jnp.asarray(vectors)),
    )


def _is_too_large(raw: Any) -> bool:
    """Whether a whole number has no room in an array of ids."""
    return isinstance(raw, int) and not -(2**63) <= raw < 2**63


def _checked_ids(new: Ids, known: np.ndarray, n: int) -> list[Any]:
    ids = plain_ids(new, "new item")
    (example,) = known[:1].tolist()
    wrong = [
        raw
        for raw in ids
        if type(raw) is not type(example) or raw in (-1, "") or _is_too_large(raw)
    ]
    if wrong:
        raise DatasetError(
            f"new item id {listed(wrong)}: expected {type(example).__name__}s like the run's own, "
            f"such as {example!r}, and not {'-1' if type(example) is int else 'an empty one'}, "
            "which fills lists up"
        )
    repeated = [raw for raw, times in Counter(ids).items() if times > 1]
    if repeated:
        raise DatasetError(f"new item id {listed(repeated)} is repeated: expected each id once")
    if len(ids) != n:
        raise DatasetError(f"{len(ids)} new item ids for features of {n} items, expected one each")
    return ids
