"""Checkpoints with Orbax: a tree of arrays and a JSON record, `best` and `last`, atomic.

Orbax writes a checkpoint whole or not at all. What it does not notice is a bit that changes
afterwards, so a record holds digests of the arrays and of itself, which every restore compares. The
checkpoint before goes only after the new one has been read back.
"""

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import jax
import orbax.checkpoint as ocp

from mmssl_jax.digest import describe, digest_texts, host_digest_words
from mmssl_jax.hosts import count, everybody, make_folder
from mmssl_jax.messages import shown
from mmssl_jax.orbax_threads import stops_held_back, without_leftovers
from mmssl_jax.parallel import on_host

Which = Literal["best", "last"]
Tree = TypeVar("Tree")  # a pytree of arrays
Manager: TypeAlias = ocp.CheckpointManager

FORMAT = 2  # of records; those of earlier versions have no such number, and no digests
KEPT = 2  # of `best` and of `last`
# TensorStore reads a name as a URL, in which these do not stand for themselves.
UNSAFE = re.compile(r"[\[\]\\\x00-\x1f]")

# Orbax tells every save at info level, warns of settings that only matter on many hosts, and prints
# the traceback of an error that it raises as well.
logging.getLogger("absl").setLevel(logging.CRITICAL)

# The newest step of each manager that has been read back, so that none is twice.
_read_back: WeakKeyDictionary[Manager, int] = WeakKeyDictionary()


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, or does not fit."""


class DamagedError(CheckpointError):
    """A checkpoint that does not hold what was saved."""


class CheckpointWarning(UserWarning):
    """A damaged checkpoint was passed over."""


def open_checkpoints(run: Path, which: Which, read_only: bool = False) -> Manager:
    """The `best` or `last` checkpoints of a run directory.

    Raises CheckpointError where there are none to read, or for a path that cannot hold any.
    """
    directory = run.absolute() / "checkpoints" / which
    require_safe_path(directory)
    if read_only and not directory.is_dir():
        raise CheckpointError(f"no checkpoints at {directory}: is {run} the directory of a run?")
    if not read_only and count() > 1:
        make_folder(directory)
    # With their numbers given, hosts wait for each other without their devices, which may be at
    # work; such a manager makes no folder. Both managers save in threads of their own, so that each
    # needs a name by which its hosts wait.
    together = ocp.options.MultiprocessingOptions(
        active_processes=everybody() if count() > 1 else None, barrier_sync_key_prefix=which
    )
    options = ocp.CheckpointManagerOptions(
        multiprocessing_options=together,
        max_to_keep=None,  # `settle` deletes, once the newest has been read back
        read_only=read_only,
        create=not read_only and count() == 1,
        cleanup_tmp_directories=not read_only,  # what a killed process was still writing
    )
    return ocp.CheckpointManager(directory, options=options)


def require_safe_path(path: Path) -> None:
    """Raises CheckpointError for a path from which Orbax could not read what it wrote there."""
    found = UNSAFE.search(str(path.absolute()))
    if found:
        raise CheckpointError(
            f"{path.absolute()}: checkpoints in a path with {found.group()!r} could be written but "
            "not read back: choose a path without [, ], \\ and control characters"
        )


def save_checkpoint(
    manager: Manager,
    step: int,
    tree: Tree,
    record: dict[str, Any],
    words: jax.Array | None = None,
) -> None:
    """Writes `tree` and `record` in the background under a step number.

    The save before is waited for, and read back if there is an older one. A step that is there
    already, left by a process that died, is replaced.

    Args:
      words: the tree's `digest_words`, where they have been computed already.
    Raises CheckpointError when the save before has failed.
    """
    settle(manager, tree)
    if step in manager.all_steps():
        manager.delete(step)
        _read_back.pop(manager, None)
    digests = digest_texts(tree, host_digest_words(tree) if words is None else words)
    shape = {"format": FORMAT, "arrays": describe(tree), "digests": digests}
    signed = sign(record | shape)
    arguments = ocp.args.Composite(
        tree=ocp.args.StandardSave(tree), record=ocp.args.JsonSave(signed)
    )
    try:
        with stops_held_back():
            manager.save(step, args=arguments)
    except Exception as error:
        raise _not_written(manager, error) from error


def settle(manager: Manager, like: Tree) -> None:
    """Waits for a save under way, reads it back, and then deletes what is older than is kept.

    like: a tree of the same structure, of arrays or abstract.
    Raises CheckpointError when it was not written, or reads back as something else.
    """
    try:
        manager.wait_until_finished()
    except Exception as error:
        raise _not_written(manager, error) from error
    steps = sorted(manager.all_steps())
    if len(steps) < 2 or _read_back.get(manager) == steps[-1]:
        return
    try:
        restore_tree(manager, on_host(like), steps[-1])
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}\nIt was written a moment ago: the disk may be at fault. Step {steps[-2]} "
            "before it is kept"
        ) from error
    _read_back[manager] = steps[-1]
    for step in steps[:-KEPT]:
        manager.delete(step)


def restore_record(manager: Manager, step: int | None = None) -> dict[str, Any]:
    """The record of a checkpoint, the newest if no step is given.

    Raises CheckpointError when there is none, it is damaged, or a later version wrote it.
    """
    return {k: v for k, v in _signed_record(manager, step).items() if k not in SIGNATURE}


def restore_tree(manager: Manager, like: Tree, step: int | None = None) -> Tree:
    """The tree of a checkpoint, the newest if no step is given, on the devices of `like`, a tree of
    the same structure, of arrays or abstract.

    Raises CheckpointError when there is none, it is damaged, or has other names or shapes.
    """
    step = _newest(manager) if step is None else step
    where = f"the checkpoint {manager.directory / str(step)}"
    record = _signed_record(manager, step)
    if "arrays" in record:  # not in earlier versions
        _require_same_arrays(record["arrays"], describe(like), where)
    arguments = ocp.args.Composite(tree=ocp.args.StandardRestore(abstract_tree(like)))
    try:
        with without_leftovers():
            tree: Tree = manager.restore(step, args=arguments)["tree"]
    except Exception as error:
        what = "is damaged" if "arrays" in record else "is damaged, or of another model"
        raise DamagedError(f"{where} {what} ({_first_line(error)})") from error
    if describe(tree) != describe(like):
        raise DamagedError(f"{where} is damaged: its description is not what was saved")
    if "digests" not in record:
        return tree
    saved, found = record["digests"], digest_texts(tree, host_digest_words(tree))
    changed = [name for name in found if saved.get(name) != found[name]]
    if changed:
        raise DamagedError(
            f"{where} is damaged: {changed[0]} is not what was saved "
            f"({len(changed)} of {len(found)} arrays)"
        )
    return tree


def _require_same_arrays(saved: dict[str, str], wanted: dict[str, str], where: str) -> None:
    """Raises CheckpointError for the arrays of another model, with the first that differs."""
    for name in {**saved, **wanted}:
        if saved.get(name) != wanted.get(name):
            raise CheckpointError(
                f"{where} does not fit the model of its run: {name} is "
                f"{saved.get(name, 'missing')} in the checkpoint and "
                f"{wanted.get(name, 'missing')} in the run"
            )


def abstract_tree(tree: Tree) -> Tree:
    """Shapes, types and devices of a tree of arrays, which outlive the arrays."""
    abstract: Tree = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )
    return abstract


SIGNATURE = ("format", "arrays", "digests", "digest")


def sign(record: dict[str, Any]) -> dict[str, Any]:
    """A record with a digest of all else that it holds."""
    return record | {"digest": _record_digest(record)}


def _record_digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _signed_record(manager: Manager, step: int | None) -> dict[str, Any]:
    step = _newest(manager) if step is None else step
    where = f"the record of the checkpoint {manager.directory / str(step)}"
    try:
        record = manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))[
            "record"
        ]
    except Exception as error:
        raise DamagedError(f"{where} is damaged ({_first_line(error)})") from error
    if not isinstance(record, dict):
        raise DamagedError(f"{where} is damaged: it holds {shown(record)}, expected an object")
    version = record.get("format", 1)
    if version not in (1, FORMAT):
        raise CheckpointError(
            f"{where} has format {shown(version)}; this version reads up to {FORMAT}: read it with "
            "the version that wrote it, or a later one"
        )
    rest = {key: value for key, value in record.items() if key != "digest"}
    if (version != 1 or "digest" in record) and record.get("digest") != _record_digest(rest):
        raise DamagedError(f"{where} is damaged: it is not what was saved")
    return record


def _newest(manager: Manager) -> int:
    step = manager.latest_step()
    if step is None:
        raise CheckpointError(f"no finished checkpoint in {manager.directory}: nothing to restore")
    return step


def _not_written(manager: Manager, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{manager.directory}: the checkpoint could not be written ({_first_line(error)}); those "
        "before it are kept. Free some space or mend the permission, and go on with --resume"
    )


def _first_line(error: Exception) -> str:
    """What an error says; TensorStore begins with long paths and ends with the reason."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 300 else f"{lines[0][:60]} .. {lines[0][-200:]}"
