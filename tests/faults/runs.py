"""The run that the tests beside this file do harm to: BPR-MF on a tiny folder of data."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mmssl_jax.records.log import read_records
from tests.problems import flags, tiny_dataset, write_folder

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 30


def settings(folder: Path, epochs: int = EPOCHS) -> list[str]:
    """The flags of a run on the data in `folder`, which are written there if they are missing."""
    if not folder.exists():
        write_folder(tiny_dataset(), folder)
    return flags(
        {
            "method": "mf",
            "mf.dim": 4,
            "data.path": folder,
            "sampling.batch_size": 48,
            "eval.ks": (5, 20),
            "eval.block_users": 16,
            "train.epochs": epochs,
            "train.patience": 1000,
        }
    )


def start(
    arguments: list[str], run: Path, moment: tuple[int, float], end_with: signal.Signals
) -> tuple[int, str]:
    """Runs train.py in a process of its own, which gets a signal if it still runs at a moment: some
    epochs are logged, and some seconds have passed since. Returns its exit status and what it
    printed."""
    command = [sys.executable, "train.py", *arguments, f"--run={run}"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    epochs, seconds = moment
    log, deadline = run / "metrics.jsonl", time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if not epochs or (log.exists() and log.read_bytes().count(b"\n") >= epochs):
            break
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(end_with)
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


def outcome(run: Path) -> tuple[list[dict], dict]:
    """What a run leaves, but for its times."""
    records = [record | {"seconds": 0} for record in read_records(run / "metrics.jsonl")]
    return records, json.loads((run / "result.json").read_text())
