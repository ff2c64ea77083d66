"""The record of a run as TensorBoard events, if asked for."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmssl_jax.config import ConfigError, TrainConfig
from mmssl_jax.records.log import read_records

WriteEvents = Callable[[dict[str, Any]], None]
NOT_SCALARS = ("epoch", "step")


def require_tensorboard(config: TrainConfig) -> None:
    """Raises ConfigError where events are asked for and their writer is not installed."""
    if config.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError(
            "train.tensorboard is true, but tensorboardX is not installed: "
            "pip install 'mmssl_jax[tensorboard]', or leave train.tensorboard out"
        )


@contextmanager
def event_writer(config: TrainConfig, run: Path) -> Iterator[WriteEvents]:
    """Yields a function that writes a record's numbers at its "step"; without the setting, no-op.

    The first call replaces the events that are there by what `metrics.jsonl` holds by then, so a
    resumed run, whose log was cut back, has every step once. Call it after the log has the record.
    """
    if not config.tensorboard:
        yield lambda record: None
        return
    from tensorboardX import SummaryWriter

    folder, log = run / "tensorboard", run / "metrics.jsonl"
    writers: list[SummaryWriter] = []

    def write(record: dict[str, Any]) -> None:
        if not writers:
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
            writers.append(SummaryWriter(str(folder)))
            for earlier in read_records(log) if log.is_file() else []:
                if earlier != record:
                    _add(writers[0], earlier)
        _add(writers[0], record)
        writers[0].flush()

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()


def _add(writer: Any, record: dict[str, Any]) -> None:
    """Losses become train/<name>; TensorBoard's names hold no @."""
    for name, value in record.items():
        if name not in NOT_SCALARS:
            tag = name if "/" in name else f"train/{name}"
            writer.add_scalar(tag.replace("@", "_at_"), value, record["step"])
