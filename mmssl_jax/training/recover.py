"""Which checkpoint a run goes on from: the newest whole one, and what is said of the others."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmssl_jax.checkpoint import (
    CheckpointError,
    DamagedError,
    Manager,
    restore_record,
    restore_tree,
    save_checkpoint,
    settle,
)
from mmssl_jax.config import Config, flatten
from mmssl_jax.hosts import from_primary
from mmssl_jax.messages import shown
from mmssl_jax.parallel import on_host
from mmssl_jax.records.log import damage_line, keep_records_until, read_log
from mmssl_jax.run_config import MAY_CHANGE
from mmssl_jax.training.errors import RunError
from mmssl_jax.training.part import NOT_BEGUN, Part
from mmssl_jax.training.problem import TrainState
from mmssl_jax.training.progress import Checkpoints, Progress

Say = Callable[[str], None]
Start = tuple[TrainState, Progress, Part]
# How a run learns from here on, and where, does not make what it has learned another model's.
MAY_DIFFER = ("optim.", "parallel.")


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that a checkpoint cannot be used without: all but those of MAY_CHANGE and
    MAY_DIFFER, as JSON has them."""
    kept = {
        key: value
        for key, value in flatten(config).items()
        if key not in MAY_CHANGE and not key.startswith(MAY_DIFFER)
    }
    found: dict[str, Any] = json.loads(json.dumps(kept))
    return found


def require_same_settings(record: Mapping[str, Any], config: Config, where: str) -> None:
    """Raises CheckpointError, naming the settings, for a checkpoint of other ones.

    Records of earlier versions hold none; settings that only one version has are passed over.
    """
    now, saved = settings_of(config), record.get("settings", {})
    lines = [
        f"{key}: {shown(saved[key])} in the checkpoint, {shown(value)} in config.yaml"
        for key, value in now.items()
        if key in saved and saved[key] != value
    ]
    if lines:
        raise CheckpointError(
            f"{where} was saved with other settings than the run has now\n  "
            + "\n  ".join(lines[:20])
            + "\nTake back what was changed in config.yaml, or the checkpoint of another run"
        )


def recover(
    checkpoints: Checkpoints, like: TrainState, config: Config, run: Path, say: Say
) -> Start:
    """State, progress, and what is done of an epoch: of the newest whole checkpoint, `last` before
    `best`. Damaged ones are put aside, and told; the log is cut back to where the run goes on.

    A run that died before its first checkpoint starts anew.
    Raises CheckpointError for a checkpoint of other settings, another model or a later version, and
    where none is whole; RunError for a run that has a log but has lost its checkpoints.
    """
    log = run / "metrics.jsonl"
    found = newest_whole(checkpoints, like, config, say)
    if found is None:
        n_epochs = from_primary(lambda: len(read_log(log).records))
        if n_epochs > 1:  # the first one is logged before it is saved
            raise RunError(
                f"{log} has {n_epochs} epochs, but {run / 'checkpoints'} holds no "
                "checkpoint to go on from: put it back from a copy, or start a new run with "
                "another --run"
            )
        if n_epochs:
            say("no whole epoch was saved: the run starts anew")
        from_primary(lambda: keep_records_until(log, 0))
        return like, Progress(), NOT_BEGUN
    which, record, state = found
    progress = Progress(**record["progress"])
    part = part_of(record)
    if which == "best":
        say(f"there is no checkpoint `last`: going on from `best`, step {progress.steps}")
    elif not is_best_whole(checkpoints.best, progress, like, config, say):
        progress = without_best(checkpoints.best, record, state, config.train.monitor, say)
    damaged = from_primary(lambda: keep_records_until(log, progress.steps + part.steps))
    if damaged:
        say(damage_line(log, damaged))
    return state, progress, part


def newest_whole(
    checkpoints: Checkpoints, like: TrainState, config: Config, say: Say
) -> tuple[str, dict[str, Any], TrainState] | None:
    """`last` or `best`, its record and its state; None where there is no checkpoint at all."""
    damaged = []
    for which, manager in (("last", checkpoints.last), ("best", checkpoints.best)):
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                record = read_record(manager, step, config)
                if ends_an_epoch(record) or "part" in record:
                    return which, record, restore_tree(manager, like, step)
            except DamagedError as error:
                damaged.append(str(error))
                say(f"{error}; it is put aside in {put_aside(manager, step)}")
    if damaged:
        raise CheckpointError(f"no whole checkpoint is left: {damaged[0]}")
    return None


def read_record(manager: Manager, step: int, config: Config) -> dict[str, Any]:
    """The record of a run's checkpoint, which fits the run's settings and the step's number."""
    where = f"the checkpoint {manager.directory / str(step)}"
    record = restore_record(manager, step)
    require_same_settings(record, config, where)
    try:
        done = Progress(**record["progress"]).steps + part_of(record).steps
    except (TypeError, KeyError) as error:
        raise DamagedError(f"{where} is damaged: its record holds no progress") from error
    if done != step:
        raise DamagedError(f"{where} is damaged: its record is of step {shown(done)}")
    return record


def ends_an_epoch(record: Mapping[str, Any]) -> bool:
    """Whether a state is one that a run goes on from: where `max_steps` ends a run within its first
    epoch, `best` is of a part of it, which is repeated as a whole."""
    progress = Progress(**record["progress"])
    return progress.best_epoch < progress.epochs


def part_of(record: Mapping[str, Any]) -> Part:
    """What is done of an epoch."""
    return Part(**record["part"]) if "part" in record else NOT_BEGUN


def put_aside(manager: Manager, step: int) -> Path:
    """Moves a checkpoint out of the way, and says where it is."""
    new = from_primary(lambda: str(_move_aside(Path(manager.directory) / str(step))))
    manager.reload()
    return Path(new)


def _move_aside(old: Path) -> Path:
    folder = old.parent.parent / "damaged"
    folder.mkdir(exist_ok=True)
    name = f"{old.parent.name}-{old.name}"
    n = sum(path.name == name or path.name.startswith(f"{name}-") for path in folder.iterdir())
    new = folder / (f"{name}-{n}" if n else name)
    old.rename(new)
    return new


def is_best_whole(
    best: Manager, progress: Progress, like: TrainState, config: Config, say: Say
) -> bool:
    """Whether the best epoch that a run remembers is there; if not, why is said.

    One that is later than where the run goes on, whose process died before `last` was saved, goes:
    its epoch is run again.
    """
    for step in best.all_steps():
        if step > progress.steps:
            best.delete(step)
    if progress.best_epoch < 0:
        return True
    for step in sorted(best.all_steps(), reverse=True):
        try:
            record = read_record(best, step, config)
            restore_tree(best, on_host(like), step)
            return Progress(**record["progress"]).best_epoch == progress.best_epoch
        except DamagedError as error:
            say(f"{error}; it is put aside in {put_aside(best, step)}")
    return False


def without_best(
    best: Manager, record: dict[str, Any], state: TrainState, monitor: str, say: Say
) -> Progress:
    """The progress of a run whose best epoch is lost: the last epoch takes its place, or, within an
    epoch, the next one."""
    progress = Progress(**record["progress"])
    lost = f"the best checkpoint, of epoch {progress.best_epoch}, is lost"
    if "part" in record:
        say(f"{lost}: the best of the epochs from here on takes its place")
        return progress._replace(best=-math.inf, best_epoch=-1, misses=0)
    last = progress.epochs - 1
    say(f"{lost}: epoch {last}, the last one, takes its place")
    value = record["validation"][monitor]
    progress = progress._replace(best=value, best_epoch=last, misses=0)
    save_checkpoint(best, progress.steps, state, record | {"progress": progress._asdict()})
    settle(best, state)
    return progress
