"""Cold items: a share of the items whose interactions are all held out, to test new items on."""

import dataclasses
from typing import NamedTuple

import numpy as np

from mmssl_jax.data.dataset import Dataset, DatasetError


class ColdItems(NamedTuple):
    """What was held out.

    items [C]: int32, ascending. interactions [n, 2]: int32 (user, item), sorted, unique, of all
    splits together.
    """

    items: np.ndarray
    interactions: np.ndarray


def hold_out_cold_items(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, ColdItems]:
    """Takes the interactions of a random share of the items out of every split.

    share: in [0, 1), of the items that have interactions; at least one item is taken if it is not
    0. The items keep their numbers and feature rows. Equal data, share and seed hold out the same.
    Raises DatasetError when no training interaction would be left.
    """
    everything = np.concatenate(list(dataset.splits.values()))
    candidates = np.unique(everything[:, 1])
    number = max(1, round(share * len(candidates))) if share else 0
    rng = np.random.default_rng([seed, 3])
    items = np.sort(rng.permutation(candidates)[:number]).astype(np.int32)
    is_cold = np.zeros(dataset.n_items, bool)
    is_cold[items] = True
    kept = {name: edges[~is_cold[edges[:, 1]]] for name, edges in dataset.splits.items()}
    if not len(kept["train"]):
        raise DatasetError(
            f"data.cold_items {share} holds out {number} of {len(candidates)} items, which leaves "
            f"no training interaction of {len(dataset.train)}; lower it"
        )
    held_out = everything[is_cold[everything[:, 1]]]
    order = np.lexsort((held_out[:, 1], held_out[:, 0]))
    return dataclasses.replace(dataset, **kept), ColdItems(items, held_out[order])
