"""The dataset folder, in the hkuds layout with the optional files, and the printed summary."""

import dataclasses
import functools
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmssl_jax.data.annexes import MASK_SUFFIX
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.data.hkuds import FILES
from mmssl_jax.data.readers import SUFFIX
from mmssl_jax.messages import shown
from mmssl_jax.prepare.paths import reason_of
from mmssl_jax.prepare.settings import Settings


def try_out(out: Path) -> None:
    """Raises DatasetError unless `out` is new or an empty folder in which files can be made.

    Nothing is left behind.
    """
    try:
        if out.is_dir() and any(out.iterdir()):
            unfinished = (out / FILES[1]).exists() and not (out / FILES[0]).exists()
            what = "the rest of a preparation that was stopped" if unfinished else "not empty"
            raise DatasetError(f"{out}: {what}, and nothing is overwritten; name another --out")
        if os.path.lexists(out) and not out.is_dir():
            raise DatasetError(f"{out}: a file, expected a new or empty folder; name another --out")
        made = [folder for folder in (out, *out.parents) if not folder.exists()]
        try:
            out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=out):
                pass
        finally:
            for folder in made:
                if folder.is_dir():
                    folder.rmdir()
    except (OSError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"{out}: cannot be written ({reason_of(error)}); name another --out"
        ) from error


def write_dataset(dataset: Dataset, out: Path, settings: Settings, summary: dict[str, Any]) -> None:
    """Writes every file of the folder, train.json last: without it the folder is none of a dataset,
    so a part of one is never taken for the whole.

    Raises DatasetError when the disk is full or fails, with what had been written removed.
    """
    record = {"settings": dataclasses.asdict(settings), "summary": summary}
    arrays = {f"{name}{SUFFIX}": rows for name, rows in dataset.features.items()}
    arrays |= {f"{name}{MASK_SUFFIX}": present for name, present in dataset.presence.items()}
    texts = {
        "user_ids.json": _json(dataset.user_ids.tolist()),
        "item_ids.json": _json(dataset.item_ids.tolist()),
        "prepare.json": _json(record, indent=1),
    }
    for file, edges in reversed(list(zip(FILES, dataset.splits.values(), strict=True))):
        texts[file] = _json(_lists(edges))
    is_new = not out.exists()
    begun: list[Path] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            begun.append(out / name)
            _write(out / name, functools.partial(np.save, arr=array))
        for name, content in texts.items():
            begun += [out / name, _unfinished(out / name)]
            _write(_unfinished(out / name), functools.partial(_write_bytes, content=content))
            _unfinished(out / name).replace(out / name)
    except BaseException as error:
        for path in begun:
            path.unlink(missing_ok=True)
        if is_new and out.is_dir():
            out.rmdir()
        if not isinstance(error, OSError):
            raise
        raise DatasetError(
            f"{out}: cannot be written ({reason_of(error)}); its files are removed again, and what "
            "was encoded is kept in the cache: the same command goes on from there"
        ) from error


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file, which is on the disk when this returns."""
    with path.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def _lists(edges: np.ndarray) -> dict[str, list[int]]:
    """{user: items} of edges [E, 2] sorted by user."""
    users, starts = np.unique(edges[:, 0], return_index=True)
    parts = np.split(edges[:, 1], starts[1:])
    return {str(user): part.tolist() for user, part in zip(users, parts, strict=False)}


def _write_bytes(file: IO[bytes], content: bytes) -> None:
    file.write(content)


def _json(content: Any, indent: int | None = None) -> bytes:
    # Half a character, as a path may hold, becomes the escape that JSON has for it.
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")


def summary_table(summary: dict[str, Any]) -> str:
    """The summary as lines of label and number."""
    read, kept = summary["read"], summary["kept"]
    density = (kept["train"] + kept["validation"] + kept["test"]) / (kept["users"] * kept["items"])
    rows = [
        ("rows read", f"{read['rows']:,}"),
        ("  without a rating", f"{read['rows_without_rating']:,}"),
        ("  below min_rating", f"{read['rows_below_min_rating']:,}"),
        ("  duplicates merged", f"{read['duplicates_merged']:,}"),
        ("interactions before the k-core", f"{read['interactions']:,}"),
        ("users before, after", f"{read['users']:,}, {kept['users']:,}"),
        ("items before, after", f"{read['items']:,}, {kept['items']:,}"),
        *((f"{split} interactions", f"{kept[split]:,}") for split in ("train", "validation")),
        ("test interactions", f"{kept['test']:,}"),
        ("density", f"{density:.4%}"),
        ("held out, given back to training", f"{kept['given_back_to_train']:,}"),
        ("items without training interactions", f"{kept['items_without_train']:,}"),
        ("items without any modality", f"{kept['items_without_any_modality']:,}"),
    ]
    for name, report in summary["modalities"].items():
        encoded = f", {report['newly_encoded']:,} encoded now" if "newly_encoded" in report else ""
        rows.append((f"modality {name}", f"width {report['width']:,}{encoded}"))
        rows.append(
            ("  items that lack it", f"{report['missing']:,} ({report['missing_rate']:.2%})")
        )
        for reason, found in report["reasons"].items():
            first = ", ".join(map(shown, found["first"][:3])) + (
                ", .." if found["items"] > 3 else ""
            )
            rows.append((f"    {reason.replace('_', ' ')}", f"{found['items']:,}: {first}"))
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)
