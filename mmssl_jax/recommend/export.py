"""Files of a run's recommendations and embeddings, in raw ids; each appears when it is whole."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.files import check_output_file, replacing, user_path
from mmssl_jax.recommend.recommender import Filter, Recommender

COLUMNS = ("user", "rank", "item", "score")
LISTS, EMBEDDINGS = (".csv", ".parquet"), (".npz", ".parquet")


def check_suffix(file: Path, suffixes: tuple[str, ...]) -> None:
    """Raises DatasetError for a file name of another kind, or in a folder that does not exist."""
    if file.suffix not in suffixes:
        raise DatasetError(f"{file}: the name ends in {file.suffix!r}, expected {suffixes}")
    if not file.absolute().parent.is_dir():
        raise DatasetError(f"{file}: there is no folder {file.absolute().parent}; make it first")
    if file.suffix == ".parquet":
        _polars()


def export_lists(
    recommender: Recommender,
    file: Path,
    k: int = 20,
    users: int = 4096,
    filter: Filter = "train",
) -> int:
    """Writes the k best items of every user, without those that they have; returns the rows.

    file: CSV or Parquet with columns user, rank (from 1), item, score, written `users` at a time.
    filter: what a user's list leaves out, as `Recommender` explains.
    Raises DatasetError for another kind of file, or for Parquet without polars.
    """
    file = user_path(file)
    check_suffix(file, LISTS)
    check_output_file(file)
    k = min(k, len(recommender.item_ids))  # no list is longer
    ids = recommender.user_ids
    blocks = (_block(recommender, ids[i : i + users], k, filter) for i in range(0, len(ids), users))
    return _write_csv(file, blocks) if file.suffix == ".csv" else _write_parquet(file, blocks)


def _block(
    recommender: Recommender, users: np.ndarray, k: int, filter: Filter
) -> dict[str, np.ndarray]:
    """The columns of some users' lists, without padding."""
    items, scores = recommender.recommend(users, k, filter)
    kept = np.isfinite(scores)
    columns = (
        np.broadcast_to(users[:, None], items.shape),
        np.broadcast_to(np.arange(1, k + 1)[None, :], items.shape),
        items,
        scores,
    )
    return {name: column[kept] for name, column in zip(COLUMNS, columns, strict=True)}


def _write_csv(file: Path, blocks: Iterator[dict[str, np.ndarray]]) -> int:
    written = 0
    with replacing(file) as opened:
        out = io.TextIOWrapper(opened, encoding="utf-8", newline="", write_through=True)
        table = csv.writer(out, lineterminator="\n")
        table.writerow(COLUMNS)
        for block in blocks:
            block["score"] = np.char.mod("%.7g", block["score"])
            table.writerows(zip(*(column.tolist() for column in block.values()), strict=True))
            written += len(block["user"])
        out.flush()
        out.detach()
    return written


def _write_parquet(file: Path, blocks: Iterator[dict[str, np.ndarray]]) -> int:
    """One block at a time: each is made only when polars asks for it."""
    polars = _polars()
    frames = (polars.DataFrame(_plain(block)) for block in blocks)
    first = next(frames)
    written = first.height

    def rest(*_: Any) -> Iterator[Any]:
        nonlocal written
        yield first
        for frame in frames:
            written += frame.height
            yield frame

    with replacing(file) as opened:
        polars.io.plugins.register_io_source(rest, schema=first.schema).sink_parquet(opened)
    return written


def export_embeddings(recommender: Recommender, file: Path) -> int:
    """Writes the final embeddings of users and items with their raw ids; returns their number.

    .npz: arrays user_ids [U], users [U, D], item_ids [I], items [I, D]; no pickles. .parquet:
    columns kind ("user" or "item"), id (text), vector. The score of a pair is the inner product.
    Raises DatasetError for another kind of file, or for Parquet without polars.
    """
    file = user_path(file)
    check_suffix(file, EMBEDDINGS)
    check_output_file(file)
    ids = {"user": recommender.user_ids, "item": recommender.item_ids}
    vectors = {
        "user": np.asarray(recommender.user_vectors),
        "item": np.asarray(recommender.item_vectors),
    }
    if file.suffix == ".npz":
        texts = {side: x if x.dtype.kind in "iu" else x.astype(str) for side, x in ids.items()}
        with replacing(file) as opened:
            np.savez(
                opened,
                user_ids=texts["user"],
                users=vectors["user"],
                item_ids=texts["item"],
                items=vectors["item"],
            )
    else:
        polars = _polars()
        frames = [
            polars.DataFrame(
                {"id": [str(raw) for raw in ids[side].tolist()], "vector": rows}
            ).select(polars.lit(side).alias("kind"), "id", "vector")
            for side, rows in vectors.items()
        ]
        with replacing(file) as opened:
            polars.concat(frames).write_parquet(opened)
    return sum(len(rows) for rows in vectors.values())


def _plain(block: dict[str, np.ndarray]) -> dict[str, Any]:
    """Arrays of objects as lists, which polars reads as text."""
    return {name: x.tolist() if x.dtype.kind == "O" else x for name, x in block.items()}


def _polars() -> Any:
    try:
        import polars
    except ImportError as error:
        raise DatasetError(
            "Parquet needs polars: pip install 'mmssl_jax[tables]', or write .csv or .npz"
        ) from error
    return polars
