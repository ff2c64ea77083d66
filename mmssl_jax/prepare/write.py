"""The dataset folder, in the hkuds layout with the optional files, and the printed summary."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from mmssl_jax.data.annexes import MASK_SUFFIX
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.data.hkuds import FILES
from mmssl_jax.data.readers import SUFFIX
from mmssl_jax.prepare.settings import Settings


def refuse_filled(out: Path) -> None:
    """Raises DatasetError unless `out` is new or an empty folder."""
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out}: a file, expected a new or empty folder; name another --out")
    if out.is_dir() and any(out.iterdir()):
        raise DatasetError(f"{out}: not empty, and nothing is overwritten; name another --out")


def write_dataset(dataset: Dataset, out: Path, settings: Settings, summary: dict[str, Any]) -> None:
    """Writes every file of the folder, prepare.json last."""
    out.mkdir(parents=True, exist_ok=True)
    for file, edges in zip(FILES, dataset.splits.values(), strict=True):
        _write_json(out / file, _lists(edges))
    _write_json(out / "user_ids.json", dataset.user_ids.tolist())
    _write_json(out / "item_ids.json", dataset.item_ids.tolist())
    for name, rows in dataset.features.items():
        np.save(out / f"{name}{SUFFIX}", rows)
    for name, present in dataset.presence.items():
        np.save(out / f"{name}{MASK_SUFFIX}", present)
    record = {"settings": dataclasses.asdict(settings), "summary": summary}
    _write_json(out / "prepare.json", record, indent=1)


def _lists(edges: np.ndarray) -> dict[str, list[int]]:
    """{user: items} of edges [E, 2] sorted by user."""
    users, starts = np.unique(edges[:, 0], return_index=True)
    parts = np.split(edges[:, 1], starts[1:])
    return {str(user): part.tolist() for user, part in zip(users, parts, strict=False)}


def _write_json(path: Path, content: Any, indent: int | None = None) -> None:
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")


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
            first = ", ".join(found["first"][:3]) + (", .." if found["items"] > 3 else "")
            rows.append((f"    {reason.replace('_', ' ')}", f"{found['items']:,}: {first}"))
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)
