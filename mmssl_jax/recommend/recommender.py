"""Recommendations of a trained method, in the raw ids of its dataset."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmssl_jax.checkpoint import Which
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.files import user_path, user_text
from mmssl_jax.graph.rows import most_batch_edges
from mmssl_jax.messages import shown
from mmssl_jax.method import Knowledge, Vectors
from mmssl_jax.methods import METHODS
from mmssl_jax.norms import unit_rows
from mmssl_jax.parallel import in_float32
from mmssl_jax.recommend.catalogue import Catalogue, NewItems, extended
from mmssl_jax.recommend.contents import Contents, contents_of, read_contents, write_contents
from mmssl_jax.recommend.features import Features, checked_features
from mmssl_jax.recommend.ids import Ids, index_of_ids, positions, raw_ids
from mmssl_jax.recommend.rank import (
    Lists,
    Pairs,
    QueryBlocks,
    is_whole,
    pad_pairs,
    rank_by_weights,
    rank_vectors,
    select,
)
from mmssl_jax.training.restore import restore_run

MOST_AT_ONCE = 2**20  # queries: a block takes memory for all of them, asked or not
Ranking = tuple[np.ndarray, np.ndarray]
Filter = Literal["none", "train", "train_validation", "all"]
LEFT_OUT: dict[Filter, tuple[str, ...]] = {
    "none": (),
    "train": ("train",),
    "train_validation": ("train", "validation"),
    "all": ("train", "validation", "rest"),
}


class Recommender:
    """Ranks items and users for known and new ones; every id is a raw id.

    Ids are given as any iterable but a string: a list, an array, a Series, a set.
    Lists are arrays `(ids, scores)`, both [n, k], best first. Where fewer than k candidates are
    left, the end of a list is padded with score -inf and id -1 ("" where ids are strings).
    Scores are the method's own, or cosines where a function says so, at the run's own `precision`,
    as evaluation forms them. Queries are ranked `block` at a time: shorter requests are padded, so
    that a function compiles once for a k (and a number of new items), and once more for each
    doubling of the items that a block has seen, beyond what the dataset's interactions need.

    `filter` says what a user's list leaves out: "train" the training items; "train_validation"
    those of validation too; "all" everything that the user is known to have: test items as well,
    and those that `data.cold_items` held out; "none" nothing.
    Unknown ids raise DatasetError, and so does what the method cannot do.
    """

    def __init__(self, contents: Contents, block: int = 256) -> None:
        if not is_whole(block) or not 1 <= block <= MOST_AT_ONCE:
            raise DatasetError(
                f"block is {shown(block)}, expected 1 to {MOST_AT_ONCE:,} queries at once"
            )
        self.contents = contents
        self.config, self.scorer = contents.config, jax.tree.map(jnp.asarray, contents.scorer)
        self._known = jax.tree.map(jnp.asarray, contents.knowledge)  # on the device, once
        self.user_ids, self.item_ids = contents.user_ids, contents.item_ids
        self._user_index = index_of_ids(contents.user_ids)
        is_vectors, n_items = isinstance(self.scorer, Vectors), len(contents.item_ids)
        vectors = self.scorer.items if is_vectors else jnp.zeros((n_items, 0))
        self._items = Catalogue(contents.item_ids, index_of_ids(contents.item_ids), vectors)
        n_users = len(contents.user_ids)
        self._seen = {
            name: _items_by_user(np.concatenate([contents.seen[part] for part in parts]), n_users)
            for name, parts in LEFT_OUT.items()
            if parts
        }
        degree = np.diff(self._seen["all"].start)
        at_once = min(block, int(np.count_nonzero(degree)))
        least_pairs = most_batch_edges(degree, at_once, 1, False)
        self._blocks = QueryBlocks(block, least_pairs, contents.config.precision)
        inductive = METHODS[contents.config.method].INDUCTIVE
        if inductive is not None:
            config = contents.config
            self._of_new_users = jax.jit(
                in_float32(lambda known, rows: inductive.user_vectors(config, known, rows))
            )
            self._of_new_items = jax.jit(
                in_float32(lambda known, *raw: inductive.item_vectors(config, known, *raw))
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
        restored = restore_run(user_path(run), checkpoint, user_text(data_path), devices, dataset)
        return cls(contents_of(*restored), block)

    def save(self, folder: str | Path) -> None:
        """Writes a new folder that `load` reads anywhere, without the dataset or the run.

        Raises DatasetError where something is in its place.
        """
        write_contents(self.contents, user_path(folder))

    @classmethod
    def load(cls, folder: str | Path, block: int = 256) -> "Recommender":
        """Reads what `save` wrote. Raises DatasetError for any other folder."""
        return cls(read_contents(user_path(folder)), block)

    @property
    def user_vectors(self) -> Float[Array, "U D"]:
        """Vectors of all users, in the order of `user_ids`."""
        return self._vectors().users

    @property
    def item_vectors(self) -> Float[Array, "I D"]:
        """Vectors of all items, in the order of `item_ids`."""
        return self._vectors().items

    def recommend(
        self,
        users: Ids,
        k: int = 20,
        filter: Filter = "train",
        items: Ids | None = None,
        exclude: Ids | None = None,
        cold: NewItems | None = None,
    ) -> Ranking:
        """The k best items of each user.

        Args:
          filter: what a list leaves out, as above.
          items: the candidates; None for all items, those of `cold` included.
          exclude: items that are no candidates.
          cold: items to be ranked with the others by their features alone.
        """
        rows = positions(users, self._user_index, "user")
        seen = self._seen_by(rows, filter)
        catalogue = self._with(cold)
        left_out = self._left_out(catalogue, items, exclude)
        if isinstance(self.scorer, Vectors):
            queries = self.scorer.users[rows]
            ranked = rank_vectors(queries, catalogue.vectors, left_out, seen, k, self._blocks)
            return self._ids(ranked, catalogue)
        histories = select(self._seen["train"], rows)
        return self._by_weights(histories, left_out, seen, k)

    def recommend_for_items(
        self,
        item_lists: Iterable[Ids],
        k: int = 20,
        filter: Filter = "all",
        items: Ids | None = None,
        exclude: Ids | None = None,
        cold: NewItems | None = None,
    ) -> Ranking:
        """The k best items of users who are known by a list of items alone.

        Args:
          filter: "none" leaves the items of a list in; any other leaves them out, since they are
            all that is known.
          items, exclude, cold: as for `recommend`.
        """
        lists = self._positions_of_lists(item_lists)
        _check_filter(filter)
        seen = [np.zeros(0, np.int32)] * len(lists) if filter == "none" else lists
        catalogue = self._with(cold)
        left_out = self._left_out(catalogue, items, exclude)
        if not isinstance(self.scorer, Vectors):
            return self._by_weights(lists, left_out, seen, k)
        queries = self._vectors_of_lists(lists)
        ranked = rank_vectors(queries, catalogue.vectors, left_out, seen, k, self._blocks)
        return self._ids(ranked, catalogue)

    def similar_items(
        self, queries: Ids, k: int = 20, items: Ids | None = None, exclude: Ids | None = None
    ) -> Ranking:
        """The k items of the largest cosine of vectors, or of the largest weights; not the item
        itself.

        Args:
          queries: the items asked about.
          items, exclude: as for `recommend`.
        """
        rows = positions(queries, self._items.position_of, "item")
        own, left_out = list(rows[:, None]), self._left_out(self._items, items, exclude)
        if not isinstance(self.scorer, Vectors):
            return self._by_weights(own, left_out, own, k)
        unit = unit_rows(self.scorer.items)
        ranked = rank_vectors(unit[rows], unit, left_out, own, k, self._blocks)
        return self._ids(ranked, self._items)

    def user_vectors_from_items(self, item_lists: Iterable[Ids]) -> np.ndarray:
        """float32 [n, D]: vectors of users known by a list of items, as the method makes them.

        An item counts once in a list. Raises DatasetError for an empty list.
        """
        return np.asarray(self._vectors_of_lists(self._positions_of_lists(item_lists)))

    def item_vectors_from_features(self, features: Features) -> np.ndarray:
        """float32 [n, D]: vectors of items known by raw features alone, as the method makes them.

        features: {modality: [n, F]}, row i being item i. A modality that no item has is left out;
        a row of NaN says that this item lacks it. Raises DatasetError for other modalities or
        shapes, numbers that are not finite, and an item without any modality.
        """
        known, size = self._knowledge("items known by features"), self._blocks.size
        raw, present = checked_features(features, self.contents.widths)
        n = len(next(iter(raw.values())))
        vectors = np.zeros((n, self.item_vectors.shape[1]), np.float32)
        for first in range(0, n, size):
            rows, has = (_block_of(each, first, size) for each in (raw, present))
            last = min(first + size, n)
            vectors[first:last] = self._of_new_items(known, rows, has)[: last - first]
        return vectors

    def untrained_items(self) -> NewItems:
        """The dataset's items without a training interaction, with the features that they have.

        No positive of their own has trained their vectors; `recommend(users, cold=...)` ranks them
        by their features instead. Those without any modality are not among them.
        """
        return self.contents.untrained

    def recommend_cold(self, features: Features, k: int = 20) -> Ranking:
        """The k users for whom items known by their features alone score highest.

        features: as for `item_vectors_from_features`.
        """
        vectors = jnp.asarray(self.item_vectors_from_features(features))
        nobody, nothing = np.zeros(len(self.user_ids), bool), [np.zeros(0, np.int32)] * len(vectors)
        scores, rows = rank_vectors(vectors, self.user_vectors, nobody, nothing, k, self._blocks)
        return raw_ids(rows, self.user_ids), scores

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
        queries = unit_rows(jnp.asarray(self.item_vectors_from_features(features)))
        left_out = self._left_out(self._items, items, exclude)
        nothing = [np.zeros(0, np.int32)] * len(queries)
        catalogue = unit_rows(self.item_vectors)
        ranked = rank_vectors(queries, catalogue, left_out, nothing, k, self._blocks)
        return self._ids(ranked, self._items)

    def _vectors(self) -> Vectors:
        if not isinstance(self.scorer, Vectors):
            raise DatasetError(
                f"{self._title()} ranks by weights between items: it has no vectors of users or "
                "items to export, compare or search"
            )
        return self.scorer

    def _title(self) -> str:
        return METHODS[self.config.method].TITLE

    def _knowledge(self, whose: str) -> Knowledge:
        self._vectors()
        if self._known is None:
            raise DatasetError(f"{self._title()} makes no vectors of {whose}")
        return self._known

    def _seen_by(self, rows: np.ndarray, filter: Filter) -> list[np.ndarray]:
        _check_filter(filter)
        if filter == "none":
            return [np.zeros(0, np.int32)] * len(rows)
        return select(self._seen[filter], rows)

    def _with(self, cold: NewItems | None) -> Catalogue:
        if cold is None:
            return self._items
        vectors = self.item_vectors_from_features(cold.features)
        return extended(self._items, cold.ids, vectors)

    def _left_out(self, catalogue: Catalogue, items: Ids | None, exclude: Ids | None) -> np.ndarray:
        left_out = np.zeros(len(catalogue.ids), bool)
        if items is not None:
            left_out[:] = True
            left_out[positions(items, catalogue.position_of, "item")] = False
        if exclude is not None:
            left_out[positions(exclude, catalogue.position_of, "item")] = True
        return left_out

    def _by_weights(
        self, histories: list[np.ndarray], left_out: np.ndarray, seen: list[np.ndarray], k: int
    ) -> Ranking:
        ranked = rank_by_weights(self.scorer, histories, left_out, seen, k, self._blocks)
        return self._ids(ranked, self._items)

    def _ids(self, ranked: Lists, catalogue: Catalogue) -> Ranking:
        scores, rows = ranked
        return raw_ids(rows, catalogue.ids), scores

    def _positions_of_lists(self, item_lists: Iterable[Ids]) -> list[np.ndarray]:
        if isinstance(item_lists, str | bytes) or not isinstance(item_lists, Iterable):
            raise DatasetError(f"item lists are {shown(item_lists)}, expected a list of lists")
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
        known, size, vectors = self._knowledge("users known by items"), self._blocks.size, []
        for first in range(0, len(lists), size):
            part = lists[first : first + size]
            vectors.append(self._of_new_users(known, pad_pairs(part, self._blocks))[: len(part)])
        return jnp.concatenate(vectors) if vectors else self.user_vectors[:0]


def _check_filter(filter: str) -> None:
    if filter not in list(LEFT_OUT):  # of a list, since a dict looks for no list
        raise DatasetError(f"filter is {shown(filter)}, expected one of {', '.join(LEFT_OUT)}")


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
