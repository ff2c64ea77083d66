"""Serves top-K lists from an approximate nearest neighbour index of exported embeddings.

    python eval.py --run RUN --export_embeddings embeddings.npz
    pip install 'mmssl_jax[ann]'
    python examples/ann.py embeddings.npz --k 20

Prints the recall@K of the index against exact search, and the time of both. A graph index finds
fewer of the largest inner products, the more the items' lengths differ: raise --search for more
recall, lower it for more speed. Seen items are not left out; ask for a longer list and drop them.
"""

import argparse
import os
import sys
import time
from typing import Any

import numpy as np


def build_index(items: np.ndarray, expansion: int) -> Any:
    """An inner-product index of item vectors [I, D], whose keys are row numbers.

    expansion: candidates that a search keeps in view.
    """
    try:
        from usearch.index import Index
    except ImportError:
        sys.exit("error: this example needs usearch: pip install 'mmssl_jax[ann]'")
    index = Index(
        ndim=items.shape[1],
        metric="ip",
        dtype="f32",
        connectivity=32,
        expansion_add=256,
        expansion_search=expansion,
    )
    index.add(np.arange(len(items)), items)
    return index


def search(index: Any, users: np.ndarray, k: int) -> np.ndarray:
    """int [n, k]: the index's k best items of each user, best first."""
    return np.asarray(index.search(users, k).keys, np.int64).reshape(len(users), k)


def search_exactly(items: np.ndarray, users: np.ndarray, k: int, block: int = 1024) -> np.ndarray:
    """int [n, k]: the k best items of each user by all inner products, in no order."""
    blocks = [users[first : first + block] @ items.T for first in range(0, len(users), block)]
    return np.concatenate([np.argpartition(-part, k - 1, axis=1)[:, :k] for part in blocks])


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact lists that was found."""
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)]
    return float(np.mean(hits)) / exact.shape[1]


def main(arguments: list[str] | None = None) -> None:
    """Builds the index, serves all users, and compares with exact search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("embeddings", help=".npz file of eval.py --export_embeddings")
    parser.add_argument("--k", type=int, default=20, help="list length (default 20)")
    parser.add_argument("--search", type=int, default=512, help="candidates kept (default 512)")
    options = parser.parse_args(arguments)
    if not os.path.isfile(options.embeddings):
        sys.exit(f"error: no file {options.embeddings}; eval.py --export_embeddings writes one")
    with np.load(options.embeddings) as file:
        user_ids, users, item_ids, items = (
            file[name] for name in ("user_ids", "users", "item_ids", "items")
        )
    k = min(options.k, len(items))
    started = time.perf_counter()
    index = build_index(items, options.search)
    built = time.perf_counter()
    found = search(index, users, k)
    served = time.perf_counter()
    exact = search_exactly(items, users, k)
    ended = time.perf_counter()
    print(f"{len(items):,} items indexed in {built - started:.3f} s")
    print(f"{len(users):,} users served in {served - built:.3f} s; exact: {ended - served:.3f} s")
    print(f"recall@{k} against exact search: {recall(found, exact):.4f}")
    served = ", ".join(str(raw) for raw in item_ids[found[0]])
    print(f"user {user_ids[0]}, seen items among them: {served}")


if __name__ == "__main__":
    main()
