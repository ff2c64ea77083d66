"""Recommendations of a trained run, in the raw ids of its dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmssl_jax.checkpoint import Which
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.graph.rows import most_batch_edges
from mmssl_jax.model.norms import unit_rows
from mmssl_jax.parallel import in_float32
from mmssl_jax.recommend.ids import index_of_ids, positions, raw_ids
from mmssl_jax.recommend.new_items import new_item_vectors
from mmssl_jax.recommend.new_users import new_user_vectors
from mmssl_jax.recommend.rank import Pairs, pad_pairs, pairs_of, rank, select
from mmssl_jax.recommend.trained import encode, trained_model
from mmssl_jax.training.problem import Problem
from mmssl_jax.training.restore import restore_run
from mmssl_jax.training.state import TrainState

Ids = Sequence[Any] | np.ndarray
Ranking = tuple[np.ndarray, np.ndarray]


class Recommender:
    """Ranks items and users for known and new ones; every id is a raw id.

    Lists are arrays `(ids, scores)`, both [n, k], best first. Where fewer than k candidates are
    left, the end of a list is padded with score -inf and id -1 ("" where ids are strings).
    Scores are inner products, or cosines where the method says so. Queries are ranked `block` at a
    time: shorter requests are padded, so that a method compiles once for a k, and once more for
    each doubling of the items that a block has seen, beyond what the training data need.
    Unknown ids raise DatasetError.
    """

    def __init__(self, problem: Problem, state: TrainState, block: int = 256) -> None:
        self.problem, self.dataset, self.block = problem, problem.dataset, block
        config, dataset, k = problem.config, problem.dataset, problem.sizes.k
        self.trained = trained_model(problem, state)
        self.user_vectors = self.trained.embeddings.user
        self.item_vectors = self.trained.embeddings.item
        self._user_index = index_of_ids(dataset.user_ids)
        self._item_index = index_of_ids(dataset.item_ids)
        self._train = _items_by_user(dataset.train, dataset.n_users)
        self._validation = _items_by_user(dataset.validation, dataset.n_users)
        both = np.diff(self._train.start) + np.diff(self._validation.start)
        self._least_pairs = most_batch_edges(
            both, min(block, int(np.count_nonzero(both))), 1, False
        )
        self._of_new_users = jax.jit(
            in_float32(lambda trained, rows, like: new_user_vectors(trained, rows, like, config, k))
        )
        self._of_new_items = jax.jit(
            in_float32(lambda trained, encoded: new_item_vectors(trained, encoded, config))
        )

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        checkpoint: Which = "best",
        data_path: str = "",
        devices: int = 0,
        dataset: Dataset | None = None,
        block: int = 256,
    ) -> "Recommender":
        """Restores a run.

        Args:
          checkpoint: the best epoch on validation, or the last one.
          data_path: dataset folder, if it has moved since training.
          devices: local devices to use; 0 means all. Ranking uses the first.
          dataset: the dataset, for a run that was given one instead of a folder.
          block: queries ranked at once; a block takes 4 * block * items bytes.
        Raises RunError, DatasetError or CheckpointError for a run that cannot be restored.
        """
        return cls(*restore_run(Path(run), checkpoint, data_path, devices, dataset), block=block)

    def recommend(
        self,
        users: Ids,
        k: int = 20,
        filter_seen: bool = True,
        items: Ids | None = None,
        exclude: Ids | None = None,
        filter_validation: bool = False,
    ) -> Ranking:
        """The k best items of each user.

        Args:
          filter_seen: leaves out the user's training items.
          items: the candidates; None for all items.
          exclude: items that are no candidates.
          filter_validation: leaves out the user's validation items as well.
        """
        rows = positions(users, self._user_index, "user")
        nothing = [np.zeros(0, np.int32)] * len(rows)
        train = select(self._train, rows) if filter_seen else nothing
        validation = select(self._validation, rows) if filter_validation else nothing
        seen = [np.concatenate(pair) for pair in zip(train, validation, strict=True)]
        return self._rank_items(self.user_vectors[rows], self.item_vectors, seen, k, items, exclude)

    def similar_items(self, items: Ids, k: int = 20) -> Ranking:
        """The k items of the largest cosine of final embeddings, the item itself left out."""
        rows = positions(items, self._item_index, "item")
        vectors = unit_rows(self.item_vectors)
        return self._rank_items(vectors[rows], vectors, list(rows[:, None]), k)

    def recommend_for_items(
        self,
        item_lists: Sequence[Ids],
        k: int = 20,
        filter_seen: bool = True,
        items: Ids | None = None,
        exclude: Ids | None = None,
    ) -> Ranking:
        """The k best items of users who are known by a list of items alone.

        Their vectors are those of `user_vectors_from_items`. filter_seen: leaves out their items.
        """
        lists = self._positions_of_lists(item_lists)
        seen = lists if filter_seen else [np.zeros(0, np.int32)] * len(lists)
        return self._rank_items(
            self._vectors_of_lists(lists), self.item_vectors, seen, k, items, exclude
        )

    def user_vectors_from_items(self, item_lists: Sequence[Ids]) -> np.ndarray:
        """float32 [n, D]: vectors of users known by a list of items; see `recommend.new_users`.

        An item counts once in a list. Raises DatasetError for an empty list.
        """
        return np.asarray(self._vectors_of_lists(self._positions_of_lists(item_lists)))

    def item_vectors_from_features(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32 [n, D]: vectors of items known by raw features alone; see `recommend.new_items`.

        features: {modality: [n, F]}, every modality of the run, row i being item i.
        Raises DatasetError for other modalities, shapes, or numbers that are not finite.
        """
        raw = self._check_features(features)
        n = len(next(iter(raw.values())))
        vectors = np.zeros((n, self.item_vectors.shape[1]), np.float32)
        for first in range(0, n, self.block):
            part = {m: x[first : first + self.block] for m, x in raw.items()}
            size = len(next(iter(part.values())))
            rows = ((0, self.block - size), (0, 0))
            padded = {m: jnp.asarray(np.pad(x, rows)) for m, x in part.items()}
            encoded = encode(self.trained.generator, padded, self.problem.config)
            vectors[first : first + size] = self._of_new_items(self.trained, encoded)[:size]
        return vectors

    def recommend_cold(self, features: Mapping[str, np.ndarray], k: int = 20) -> Ranking:
        """The k users for whom items known by their features alone score highest.

        features: as for `item_vectors_from_features`.
        """
        vectors = jnp.asarray(self.item_vectors_from_features(features))
        nobody = np.zeros(self.dataset.n_users, bool)
        nothing = [np.zeros(0, np.int32)] * len(vectors)
        scores, rows = rank(vectors, self.user_vectors, nobody, nothing, k, self.block)
        return raw_ids(rows, self.dataset.user_ids), scores

    def similar_to_cold(self, features: Mapping[str, np.ndarray], k: int = 20) -> Ranking:
        """The k items of the dataset with the largest cosine to items known by features alone."""
        vectors = jnp.asarray(self.item_vectors_from_features(features))
        nothing = [np.zeros(0, np.int32)] * len(vectors)
        return self._rank_items(unit_rows(vectors), unit_rows(self.item_vectors), nothing, k)

    def _rank_items(
        self,
        queries: jax.Array,
        catalogue: jax.Array,
        seen: list[np.ndarray],
        k: int,
        items: Ids | None = None,
        exclude: Ids | None = None,
    ) -> Ranking:
        if k < 1:
            raise DatasetError(f"k is {k}, expected a list length of 1 or more")
        left_out = np.zeros(self.dataset.n_items, bool)
        if items is not None:
            left_out[:] = True
            left_out[positions(items, self._item_index, "item")] = False
        if exclude is not None:
            left_out[positions(exclude, self._item_index, "item")] = True
        scores, rows = rank(queries, catalogue, left_out, seen, k, self.block, self._least_pairs)
        return raw_ids(rows, self.dataset.item_ids), scores

    def _positions_of_lists(self, item_lists: Sequence[Ids]) -> list[np.ndarray]:
        lists = [np.unique(positions(items, self._item_index, "item")) for items in item_lists]
        empty = [place for place, items in enumerate(lists) if not len(items)]
        if empty:
            raise DatasetError(
                f"item list {empty[0]} is empty ({len(empty)} are): a user who is known by nothing "
                "has no vector; leave such users out, or give them the most popular items"
            )
        return lists

    def _vectors_of_lists(self, lists: list[np.ndarray]) -> jax.Array:
        like, vectors = jnp.zeros(self.block), []
        for first in range(0, len(lists), self.block):
            part = lists[first : first + self.block]
            rows = pad_pairs(part, self.block, self._least_pairs)
            vectors.append(self._of_new_users(self.trained, rows, like)[: len(part)])
        return jnp.concatenate(vectors) if vectors else self.user_vectors[:0]

    def _check_features(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        expected = {m: raw.shape[1] for m, raw in self.dataset.features.items()}
        raw = {m: np.asarray(features[m], np.float32) for m in expected if m in features}
        found = {m: np.shape(x) for m, x in features.items()}
        fits = found.keys() == expected.keys() and all(
            raw[m].ndim == 2 and raw[m].shape[1] == width for m, width in expected.items()
        )
        if not fits or len({len(x) for x in raw.values()}) != 1:
            shapes = ", ".join(f"{m}: [n, {width}]" for m, width in expected.items())
            raise DatasetError(f"features have shapes {found}, expected {{{shapes}}} with one n")
        for m, x in raw.items():
            if not np.isfinite(x).all():
                row = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
                raise DatasetError(f"features of {m}: row {row} is not finite")
        return raw


def _items_by_user(edges: np.ndarray, n_users: int) -> Pairs:
    """The items of each user, from int32 [E, 2] sorted by user."""
    return pairs_of(np.split(edges[:, 1], np.searchsorted(edges[:, 0], np.arange(1, n_users))))
