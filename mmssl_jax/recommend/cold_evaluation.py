"""How well items rank that were held out of training and are known by their features alone."""

import warnings

import numpy as np

from mmssl_jax.data.cold import ColdItems
from mmssl_jax.data.dataset import Dataset, DatasetError, DatasetWarning
from mmssl_jax.ranking.baselines import random_vectors
from mmssl_jax.ranking.evaluate import Evaluator, make_evaluator
from mmssl_jax.recommend.features import features_of, has_any
from mmssl_jax.recommend.recommender import Recommender

Table = dict[str, dict[str, float]]


def evaluate_cold_items(recommender: Recommender) -> tuple[Table, Table]:
    """Metrics {ranking: {metric: value}} over the users with interactions with cold items.

    First table: the cold items among themselves, by the model, by content and at random. Second:
    all items but the user's training items, the cold ones with the vectors of their features. Cold
    items without any modality are left out, with a warning: nothing is known of them.
    Raises DatasetError when the run held no items out, or none with a modality.
    """
    dataset = recommender.dataset
    if not len(recommender.problem.cold.interactions):
        raise DatasetError(
            "this run has no cold items: train one with --data.cold_items 0.1, which holds out all "
            "interactions of a tenth of the items"
        )
    cold = _with_features(dataset, recommender.problem.cold)
    seed = recommender.problem.config.data.seed
    users = np.asarray(recommender.user_vectors)
    vectors = recommender.item_vectors_from_features(features_of(dataset, cold.items))

    within = cold.interactions.copy()
    within[:, 1] = np.searchsorted(cold.items, within[:, 1])
    evaluate = _evaluator(recommender, np.zeros((0, 2), np.int32), within, len(cold.items))
    among_cold = {
        "MMSSL": evaluate(users, vectors),
        "content": evaluate(*content_vectors(dataset, cold.items)),
        "random": evaluate(*random_vectors(seed, len(users), len(vectors))),
    }
    items = np.array(recommender.item_vectors)
    items[cold.items] = vectors
    evaluate = _evaluator(recommender, dataset.train, cold.interactions, dataset.n_items)
    among_all = {
        "MMSSL": evaluate(users, items),
        "random": evaluate(*random_vectors(seed, len(users), len(items))),
    }
    return among_cold, among_all


def content_vectors(dataset: Dataset, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [U, F], [C, F] whose inner product is the sum over the modalities of the cosine of
    the mean raw feature of those of a user's training items that have one, and an item's own.

    Zeros where a user or an item has none.
    """
    of_users, of_items = [], []
    for features in features_of(dataset, np.arange(dataset.n_items)).values():
        raw = np.nan_to_num(features)
        total = np.zeros((dataset.n_users, raw.shape[1]), np.float32)
        np.add.at(total, dataset.train[:, 0], raw[dataset.train[:, 1]])
        of_users.append(_unit(total))  # the length does not matter: the sum serves as the mean
        of_items.append(_unit(raw[items]))
    return np.concatenate(of_users, axis=1), np.concatenate(of_items, axis=1)


def _with_features(dataset: Dataset, cold: ColdItems) -> ColdItems:
    """The cold items that have a modality, and their interactions."""
    known = has_any(dataset)
    kept = cold.items[known[cold.items]]
    if not len(kept):
        raise DatasetError(
            f"none of the {len(cold.items)} cold items has a modality, so there is nothing to rank "
            "them by; hold out more with --data.cold_items"
        )
    if len(kept) < len(cold.items):
        warnings.warn(
            f"{len(cold.items) - len(kept)} of {len(cold.items)} cold items have no modality and "
            f"are not ranked, the first is {dataset.item_ids[cold.items[~known[cold.items]][0]]!r}",
            DatasetWarning,
            stacklevel=3,
        )
    return ColdItems(kept, cold.interactions[known[cold.interactions[:, 1]]])


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def _evaluator(
    recommender: Recommender, seen: np.ndarray, held_out: np.ndarray, n_items: int
) -> Evaluator:
    problem = recommender.problem
    return make_evaluator(
        seen,
        held_out,
        problem.dataset.n_users,
        n_items,
        problem.config.eval.ks,
        problem.devices,
        problem.config.parallel.transform,
        block_users=problem.config.eval.block_users,
        block_items=problem.config.eval.block_items,
        precision=problem.config.precision,
    )
