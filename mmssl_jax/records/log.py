"""The record of a run: one JSON object a line, and the lines a person reads."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Adds one line to a JSONL file and hands it to the operating system."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a JSONL file; an unfinished last line, left by a dying process, is dropped."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def keep_records_until(path: Path, step: int) -> None:
    """Drops the records after `step`, which a resumed run writes again."""
    if not path.exists():
        return
    kept = [record for record in read_records(path) if record["step"] <= step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that a reader sees the old or the new file, never half of one."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file by renaming a finished copy into its place."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def epoch_line(record: dict[str, Any], watched: Sequence[str], monitor: str, is_best: bool) -> str:
    """One line for an epoch's record, with the watched figures that it has."""
    losses = "  ".join(f"{name} {record[name]:.4g}" for name in watched if name in record)
    value = record[f"validation/{monitor}"]
    mark = " *" if is_best else ""
    seconds = record["seconds"]
    return f"epoch {record['epoch']:>4}  {losses}  val {monitor} {value:.4f}{mark}  {seconds:.1f} s"


def metric_table(rows: dict[str, dict[str, float]]) -> str:
    """Named metric dicts as an aligned table, one row per name and K, one column per metric."""
    metrics = sorted({key.split("@")[0] for row in rows.values() for key in row if "@" in key})
    first = ["recall", "precision", "ndcg", "hit_ratio"]
    order = [m for m in first if m in metrics] + [m for m in metrics if m not in first]
    width = max([len("ranking"), *(len(name) for name in rows)])
    lines = [f"{'ranking':<{width}}    K  " + "  ".join(f"{m:>12}" for m in order)]
    for name, row in rows.items():
        for k in sorted({int(key.split("@")[1]) for key in row if "@" in key}):
            cells = "  ".join(f"{row[f'{m}@{k}']:>12.5f}" for m in order)
            lines.append(f"{name:<{width}}  {k:>3}  {cells}")
    return "\n".join(lines)
