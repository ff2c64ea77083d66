"""How well items rank that were held out of training and are known by their features alone."""

import warnings

import jax.numpy as jnp
import numpy as np

from mmssl_jax.data.cold import ColdItems
from mmssl_jax.data.dataset import Dataset, DatasetError, DatasetWarning
from mmssl_jax.method import Vectors
from mmssl_jax.ranking.baselines import random_vectors
from mmssl_jax.ranking.evaluate import Evaluator, HeldOut, make_evaluator
from mmssl_jax.ranking.lists import Scoring
from mmssl_jax.recommend.features import features_of, has_any
from mmssl_jax.recommend.recommender import Recommender
from mmssl_jax.training.problem import Problem

Table = dict[str, dict[str, float]]


def evaluate_cold_items(problem: Problem, recommender: Recommender) -> tuple[Table, Table]:
    """Metrics {ranking: {metric: value}} over the users with interactions with cold items.

    First table: the cold items among themselves, by the model, by content and at random. Second:
    all items but the user's training items, the cold ones with the vectors of their features. Cold
    items without any modality are left out, with a warning: nothing is known of them.
    Raises DatasetError when the run held no items out, or none with a modality.
    """
    dataset, title = problem.dataset, problem.method.TITLE
    if not len(problem.cold.interactions):
        raise DatasetError(
            "this run has no cold items: train one with --data.cold_items 0.1, which holds out all "
            "interactions of a tenth of the items"
        )
    if problem.method.INDUCTIVE is None:
        raise DatasetError(f"{title} makes no vectors of items known by features")
    cold = _with_features(dataset, problem.cold)
    seed = problem.config.data.seed
    users = recommender.user_vectors
    vectors = recommender.item_vectors_from_features(features_of(dataset, cold.items))

    within = cold.interactions.copy()
    within[:, 1] = np.searchsorted(cold.items, within[:, 1])
    nothing = np.zeros((0, 2), np.int32)
    evaluate = _evaluator(problem, HeldOut(len(users), len(cold.items), nothing, within))
    among_cold = {
        title: evaluate(Vectors(users, jnp.asarray(vectors))),
        "content": evaluate(content_vectors(dataset, cold.items)),
        "random": evaluate(random_vectors(seed, len(users), len(vectors))),
    }
    items = recommender.item_vectors.at[cold.items].set(vectors)
    evaluate = _evaluator(
        problem, HeldOut(len(users), len(items), dataset.train, cold.interactions)
    )
    among_all = {
        title: evaluate(Vectors(users, items)),
        "random": evaluate(random_vectors(seed, len(users), len(items))),
    }
    return among_cold, among_all


def content_vectors(dataset: Dataset, items: np.ndarray) -> Vectors:
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
    return Vectors(*(jnp.asarray(np.concatenate(side, axis=1)) for side in (of_users, of_items)))


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


def _evaluator(problem: Problem, split: HeldOut) -> Evaluator:
    config = problem.config
    return make_evaluator(split, Scoring.of(config), problem.devices, config.parallel.transform)
