"""One modality of all items: feature rows, who has one, and a report of who has not and why."""

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mmssl_jax.config import ConfigError
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.messages import shown
from mmssl_jax.prepare.cache import (
    Rows,
    content_hash,
    encoder_folder,
    load_rows,
    save_rows,
    tell_unkept,
    writable_cache,
)
from mmssl_jax.prepare.encoders import Encoder, Kind, find_encoder
from mmssl_jax.prepare.images import file_hash, image_paths, is_readable
from mmssl_jax.prepare.settings import ImageSettings, Settings, TextSettings, text_columns
from mmssl_jax.prepare.tables import read_column

NAMED = 20  # item ids of a kind that the report names


class Content(NamedTuple):
    """features: float32 [I, d], 0 where `present` bool [I] is False. report: for prepare.json."""

    features: NDArray[np.float32]
    present: NDArray[np.bool_]
    report: dict[str, Any]


def text_content(item_ids: Sequence[str], settings: Settings, id_column: str) -> Content:
    """The encoded texts of the items; an item without text lacks the modality."""
    known, folder = _cached("text", settings.text, settings)
    rows = read_column(settings, id_column, text_columns(settings.text))
    texts = [
        "\n".join(part.strip() for part in rows.get(raw, ()) if part and part.strip())
        for raw in item_ids
    ]
    hashes = [content_hash(text.encode()) if text else None for text in texts]
    empty = [raw for raw in item_ids if raw in rows and not any(map(_is_text, rows[raw]))]
    source = f"{settings.items}, {', '.join(text_columns(settings.text))}"
    reasons = {"not_in_table": [raw for raw in item_ids if raw not in rows], "empty": empty}
    wanted = {h: text for h, text in zip(hashes, texts, strict=True) if h}
    new = _encode_new("text", wanted, known, folder, settings.text)
    return collect(item_ids, hashes, {**known, **new}, source, reasons, len(new))


def _is_text(value: str | None) -> bool:
    return bool(value and value.strip())


def image_content(item_ids: Sequence[str], settings: Settings, id_column: str) -> Content:
    """The encoded images of the items; an item without a readable image lacks the modality."""
    known, folder = _cached("image", settings.image, settings)
    paths = image_paths(item_ids, settings, id_column)
    hashes: list[str | None] = []
    wanted: dict[str, str] = {}
    broken = []
    for raw, path in tqdm(
        list(zip(item_ids, paths, strict=True)), desc="reading images", unit="item", disable=None
    ):
        content = file_hash(path) if path else None
        if path and content is None:
            broken.append(raw)
        if path and content and content not in known and content not in wanted:
            if is_readable(path):
                wanted[content] = str(path)
            else:
                broken.append(raw)
                content = None
        hashes.append(content)
    no_file = [raw for raw, path in zip(item_ids, paths, strict=True) if path is None]
    image = settings.image
    source = f"{settings.items}, {image.column}" if image.column else image.folder
    new = _encode_new("image", wanted, known, folder, image)
    reasons = {"no_file": no_file, "unreadable": broken}
    return collect(item_ids, hashes, {**known, **new}, source, reasons, len(new))


def _cached(
    kind: Kind, chosen: TextSettings | ImageSettings, settings: Settings
) -> tuple[Rows, Path | None]:
    cache = writable_cache(settings.cache)
    if cache is None:
        return {}, None
    folder = encoder_folder(cache, kind, chosen.encoder, chosen.model)
    return load_rows(folder), folder


def _encode_new(
    kind: Kind,
    wanted: Mapping[str, str],
    known: Rows,
    folder: Path | None,
    chosen: TextSettings | ImageSettings,
) -> Rows:
    """Encodes what the cache lacks, eight batches at a time, each kept as soon as it is done."""
    encode = find_encoder(kind, chosen.encoder)
    missing = [(h, value) for h, value in wanted.items() if h not in known]
    new: Rows = {}
    step = 8 * chosen.batch_size
    with tqdm(total=len(missing), desc=f"encoding {kind}", unit="item", disable=None) as bar:
        for start in range(0, len(missing), step):
            part = missing[start : start + step]
            inputs = [value for _, value in part]
            vectors = _checked(chosen.encoder, encode, inputs, chosen)
            rows = {h: row for (h, _), row in zip(part, vectors, strict=True)}
            folder = _save(folder, rows)
            new |= rows
            bar.update(len(part))
    return new


def _save(folder: Path | None, rows: Rows) -> Path | None:
    """Keeps the rows; returns where the next ones are kept, nowhere after a failure."""
    if folder is None:
        return None
    try:
        save_rows(folder, rows)
    except OSError as error:
        tell_unkept(folder, error)
        return None
    return folder


def _checked(
    name: str, encode: Encoder, inputs: list[str], chosen: TextSettings | ImageSettings
) -> NDArray[np.float32]:
    try:
        vectors = np.asarray(encode(inputs, chosen.model, int(chosen.batch_size)))
    except (DatasetError, ConfigError):
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise DatasetError(
            f"encoder {name} failed in {place.filename}, line {place.lineno}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if vectors.ndim != 2 or len(vectors) != len(inputs) or vectors.dtype.kind != "f":
        raise DatasetError(
            f"encoder {name} returned {vectors.dtype} of shape {vectors.shape} for {len(inputs)} "
            f"inputs, expected floats [{len(inputs)}, width]"
        )
    vectors = vectors.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(wrong):
        raise DatasetError(
            f"encoder {name} returned NaN or infinite values for {len(wrong)} inputs, the first "
            f"is {shown(inputs[wrong[0]])}"
        )
    return vectors


def collect(
    item_ids: Sequence[str],
    keys: Sequence[str | None],
    rows: Mapping[str, NDArray[np.float32]],
    source: str,
    reasons: dict[str, list[str]],
    encoded: int | None = None,
) -> Content:
    """Rows by key, aligned to the items; a key of None, or without a row, is a missing modality.

    Raises DatasetError when no item has the modality, or rows differ in width.
    """
    present = np.array([key is not None and key in rows for key in keys], bool)
    vectors = [rows[key] for key in keys if key is not None and key in rows]
    widths = sorted({len(vector) for vector in vectors})
    if len(widths) > 1:
        raise DatasetError(
            f"{source}: encoded rows of widths {shown(widths)}, expected one; name another --cache"
        )
    report = report_of(item_ids, present, max(widths, default=0), source, reasons)
    features = np.zeros((len(item_ids), widths[0]), np.float32)
    features[present] = np.stack(vectors)
    if encoded is not None:
        report["newly_encoded"] = encoded
    return Content(features, present, report)


def report_of(
    item_ids: Sequence[str],
    present: NDArray[np.bool_],
    width: int,
    source: str,
    reasons: Mapping[str, list[str]],
) -> dict[str, Any]:
    """What prepare.json says of a modality.

    Raises DatasetError when no item has it.
    """
    if not present.any():
        counts = ", ".join(f"{r.replace('_', ' ')} {len(found)}" for r, found in reasons.items())
        raise DatasetError(
            f"{source}: none of the {len(item_ids)} items has this content ({counts}); are the raw "
            f"ids those of the interactions, like {shown(item_ids[0])}?"
        )
    return {
        "source": source,
        "width": width,
        "present": int(present.sum()),
        "missing": int((~present).sum()),
        "missing_rate": round(float((~present).mean()), 6),
        "reasons": {
            reason: {"items": len(found), "first": [str(raw) for raw in found[:NAMED]]}
            for reason, found in reasons.items()
            if found
        },
    }
