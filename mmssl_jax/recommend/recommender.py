"""Recommendations of a trained run, in the raw ids of its dataset."""

from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mmssl_jax.checkpoint import Which
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.graph.rows import most_batch_edges
from mmssl_jax.model.norms import unit_rows
from mmssl_jax.parallel import in_float32
from mmssl_jax.recommend.catalogue import Catalogue, NewItems, extended
from mmssl_jax.recommend.features import Features, checked_features, features_of, has_any
from mmssl_jax.recommend.ids import Ids, index_of_ids, positions, raw_ids
from mmssl_jax.recommend.new_items import new_item_vectors
from mmssl_jax.recommend.new_users import new_user_vectors
from mmssl_jax.recommend.rank import Pairs, pad_pairs, rank, select
from mmssl_jax.recommend.trained import encode, trained_model
from mmssl_jax.training.problem import Problem
from mmssl_jax.training.restore import restore_run
from mmssl_jax.training.state import TrainState

Ranking = tuple[np.ndarray, np.ndarray]


class Recommender:
    """Ranks items and users for known and new ones; every id is a raw id.

    Ids are given as any iterable but a string: a list, an array, a Series, a set.
    Lists are arrays `(ids, scores)`, both [n, k], best first. Where fewer than k candidates are
    left, the end of a list is padded with score -inf and id -1 ("" where ids are strings).
    Scores are inner products, or cosines where the method says so, at the run's own `precision`,
    as evaluation forms them. Queries are ranked `block` at a time: shorter requests are padded, so
    that a method compiles once for a k (and a number of new items), and once more for each doubling
    of the items that a block has seen, beyond what the dataset's interactions need.
    Unknown ids raise DatasetError.
    """

    def __init__(self, problem: Problem, state: TrainState, block: int = 256) -> None:
        self.problem, self.dataset, self.block = problem, problem.dataset, block
        config, dataset, k = problem.config, problem.dataset, problem.sizes.k
        self.trained = trained_model(problem, state)
        self.user_vectors = self.trained.embeddings.user
        self.item_vectors = self.trained.embeddings.item
        self._user_index = index_of_ids(dataset.user_ids)
        self._items = Catalogue(dataset.item_ids, index_of_ids(dataset.item_ids), self.item_vectors)
        everything = [*dataset.splits.values(), problem.cold.interactions]
        self._train, self._validation, self._all = (
            _items_by_user(edges, dataset.n_users)
            for edges in (dataset.train, dataset.validation, np.concatenate(everything))
        )
        degree = np.diff(self._all.start)
        self._least_pairs = most_batch_edges(
            degree, min(block, int(np.count_nonzero(degree))), 1, False
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
        filter_all: bool = False,
        cold: NewItems | None = None,
    ) -> Ranking:
        """The k best items of each user.

        Args:
          filter_seen: leaves out the user's training items.
          items: the candidates; None for all items, those of `cold` included.
          exclude: items that are no candidates.
          filter_validation: leaves out the user's validation items as well.
          filter_all: leaves out all items that the user is known to have: those of training,
            validation and test, and those that `data.cold_items` held out of them.
          cold: items to be ranked with the others by their features alone.
        """
        rows = positions(users, self._user_index, "user")
        nothing = [np.zeros(0, np.int32)] * len(rows)
        if filter_all:
            seen = select(self._all, rows)
        else:
            train = select(self._train, rows) if filter_seen else nothing
            validation = select(self._validation, rows) if filter_validation else nothing
            seen = [np.concatenate(pair) for pair in zip(train, validation, strict=True)]
        catalogue = self._with(cold)
        return self._rank_items(self.user_vectors[rows], catalogue, seen, k, items, exclude)

    def similar_items(
        self, queries: Ids, k: int = 20, items: Ids | None = None, exclude: Ids | None = None
    ) -> Ranking:
        """The k items of the largest cosine of final embeddings, the item itself left out.

        Args:
          queries: the items asked about.
          items, exclude: as for `recommend`.
        """
        rows = positions(queries, self._items.position_of, "item")
        catalogue = self._items._replace(vectors=unit_rows(self.item_vectors))
        own = list(rows[:, None])
        return self._rank_items(catalogue.vectors[rows], catalogue, own, k, items, exclude)

    def recommend_for_items(
        self,
        item_lists: Iterable[Ids],
        k: int = 20,
        filter_seen: bool = True,
        items: Ids | None = None,
        exclude: Ids | None = None,
        cold: NewItems | None = None,
    ) -> Ranking:
        """The k best items of users who are known by a list of items alone.

        Their vectors are those of `user_vectors_from_items`. filter_seen: leaves out their items.
        items, exclude, cold: as for `recommend`.
        """
        lists = self._positions_of_lists(item_lists)
        seen = lists if filter_seen else [np.zeros(0, np.int32)] * len(lists)
        catalogue = self._with(cold)
        return self._rank_items(self._vectors_of_lists(lists), catalogue, seen, k, items, exclude)

    def user_vectors_from_items(self, item_lists: Iterable[Ids]) -> np.ndarray:
        """float32 [n, D]: vectors of users known by a list of items; see `recommend.new_users`.

        An item counts once in a list. Raises DatasetError for an empty list.
        """
        return np.asarray(self._vectors_of_lists(self._positions_of_lists(item_lists)))

    def item_vectors_from_features(self, features: Features) -> np.ndarray:
        """float32 [n, D]: vectors of items known by raw features alone; see `recommend.new_items`.

        features: {modality: [n, F]}, row i being item i. A modality that no item has is left out;
        a row of NaN says that this item lacks it. Raises DatasetError for other modalities or
        shapes, numbers that are not finite, and an item without any modality.
        """
        widths = {m: x.shape[1] for m, x in self.dataset.features.items()}
        raw, present = checked_features(features, widths)
        n = len(next(iter(raw.values())))
        vectors = np.zeros((n, self.item_vectors.shape[1]), np.float32)
        for first in range(0, n, self.block):
            rows, has = (_block_of(each, first, self.block) for each in (raw, present))
            encoded = encode(self.trained.generator, rows, self.problem.config, has)
            last = min(first + self.block, n)
            vectors[first:last] = self._of_new_items(self.trained, encoded)[: last - first]
        return vectors

    def untrained_items(self) -> NewItems:
        """The dataset's items without a training interaction, with the features that they have.

        No positive of their own has trained their ID embeddings; `recommend(users, cold=...)` ranks
        them by their features instead. Those without any modality are not among them.
        """
        degree = np.bincount(self.dataset.train[:, 1], minlength=self.dataset.n_items)
        items = np.flatnonzero((degree == 0) & has_any(self.dataset))
        return NewItems(self.dataset.item_ids[items], features_of(self.dataset, items))

    def recommend_cold(self, features: Features, k: int = 20) -> Ranking:
        """The k users for whom items known by their features alone score highest.

        features: as for `item_vectors_from_features`.
        """
        vectors = jnp.asarray(self.item_vectors_from_features(features))
        nobody = np.zeros(self.dataset.n_users, bool)
        nothing = [np.zeros(0, np.int32)] * len(vectors)
        precision = self.problem.config.precision
        scores, rows = rank(
            vectors, self.user_vectors, nobody, nothing, k, self.block, precision=precision
        )
        return raw_ids(rows, self.dataset.user_ids), scores

    def similar_to_cold(
        self,
        features: Features,
        k: int = 20,
        items: Ids | None = None,
        exclude: Ids | None = None,
    ) -> Ranking:
        """The k items of the dataset with the largest cosine to items known by features alone.

        features: as for `item_vectors_from_features`. items, exclude: as for `recommend`.
        """
        vectors = jnp.asarray(self.item_vectors_from_features(features))
        nothing = [np.zeros(0, np.int32)] * len(vectors)
        catalogue = self._items._replace(vectors=unit_rows(self.item_vectors))
        return self._rank_items(unit_rows(vectors), catalogue, nothing, k, items, exclude)

    def _with(self, cold: NewItems | None) -> Catalogue:
        if cold is None:
            return self._items
        vectors = self.item_vectors_from_features(cold.features)
        return extended(self._items, cold.ids, vectors)

    def _rank_items(
        self,
        queries: jax.Array,
        catalogue: Catalogue,
        seen: list[np.ndarray],
        k: int,
        items: Ids | None = None,
        exclude: Ids | None = None,
    ) -> Ranking:
        left_out = np.zeros(len(catalogue.ids), bool)
        if items is not None:
            left_out[:] = True
            left_out[positions(items, catalogue.position_of, "item")] = False
        if exclude is not None:
            left_out[positions(exclude, catalogue.position_of, "item")] = True
        scores, rows = rank(
            queries,
            catalogue.vectors,
            left_out,
            seen,
            k,
            self.block,
            self._least_pairs,
            self.problem.config.precision,
        )
        return raw_ids(rows, catalogue.ids), scores

    def _positions_of_lists(self, item_lists: Iterable[Ids]) -> list[np.ndarray]:
        lists = [
            np.unique(positions(items, self._items.position_of, "item")) for items in item_lists
        ]
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


def _block_of(by_modality: dict[str, np.ndarray], first: int, size: int) -> dict[str, jax.Array]:
    """Rows from `first` on of each modality, and zeros up to `size` of them."""
    parts = {m: x[first : first + size] for m, x in by_modality.items()}
    return {
        m: jnp.asarray(np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1)))
        for m, x in parts.items()
    }


def _items_by_user(edges: np.ndarray, n_users: int) -> Pairs:
    """The items of each user, from int32 [E, 2] (user, item)."""
    edges = edges[np.argsort(edges[:, 0], kind="stable")]
    return Pairs(np.searchsorted(edges[:, 0], np.arange(n_users + 1)), edges[:, 1])
