"""The record of a run: one JSON object a line, and the lines a person reads."""

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmssl_jax.files import naming, replacing


class LogWarning(UserWarning):
    """Lines of a log are damaged."""


class Log(NamedTuple):
    """What a log holds.

    records: of epochs, in order. notes: {"step", "note"} of what else befell the run. damaged:
    numbers, from 1, of lines that hold neither; an unfinished last line, left by a dying process,
    is none of them.
    """

    records: list[dict[str, Any]]
    notes: list[dict[str, Any]]
    damaged: list[int]


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Adds one line to a JSONL file; it is on the disk when this returns."""
    with naming(path), path.open("a", encoding="utf-8") as file:
        if file.tell() and not _ends_a_line(path):  # what a dying process was writing
            file.write("\n")
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_log(path: Path) -> Log:
    """Every whole line of a log; one that does not exist is empty."""
    log = Log([], [], [])
    if not path.is_file():
        return log
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        entry = _entry(line)
        if entry is not None:
            (log.notes if "note" in entry else log.records).append(entry)
        elif line.strip() and number < len(lines):
            log.damaged.append(number)
    return log


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of the epochs of a log; damaged lines are warned of."""
    log = read_log(path)
    if log.damaged:
        warnings.warn(damage_line(path, log.damaged), LogWarning, stacklevel=2)
    return log.records


def keep_records_until(path: Path, step: int) -> list[int]:
    """Drops the records after `step`, which a resumed run writes again, and damaged lines.

    Returns: the numbers, from 1, of the damaged lines.
    """
    if not path.exists():
        return []
    log = read_log(path)
    entries = sorted([*log.records, *log.notes], key=lambda entry: entry["step"])
    kept = [entry for entry in entries if entry["step"] <= step]
    if log.damaged or len(kept) < len(entries) or not _ends_a_line(path):
        write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
    return log.damaged


def damage_line(path: Path, damaged: Sequence[int]) -> str:
    """One line about the damaged lines of a log."""
    places = ", ".join(map(str, damaged[:5])) + (", .." if len(damaged) > 5 else "")
    which = f"line {places} is" if len(damaged) == 1 else f"lines {places} are"
    return f"{path}: {which} damaged and left out; the others are kept"


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that a reader sees the old or the new file, never half of one."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file by renaming a finished copy into its place."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if not file.tell():
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _entry(line: bytes) -> dict[str, Any] | None:
    """A line's record or note, None for anything else."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or type(entry.get("step")) is not int:
        return None
    if "note" in entry:
        return entry if isinstance(entry["note"], str) else None
    figures = [value for key, value in entry.items() if key != "epoch"]
    are_numbers = all(type(value) in (int, float) for value in figures)
    has_all = type(entry.get("epoch")) is int and "seconds" in entry
    return entry if are_numbers and has_all else None


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
