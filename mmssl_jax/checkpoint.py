"""Checkpoints with Orbax: a tree of arrays and a JSON record, `best` and `last`, atomic.

A manager keeps one checkpoint. The old one is deleted only after the new one is complete, so a
process that dies at any moment leaves a whole one.
"""

import logging
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import orbax.checkpoint as ocp

Which = Literal["best", "last"]
Tree = TypeVar("Tree")  # a pytree of arrays

# Orbax tells every save at info level, and warns of settings that only matter on many hosts.
logging.getLogger("absl").setLevel(logging.ERROR)


class CheckpointError(RuntimeError):
    """A checkpoint that is missing or does not fit."""


def open_checkpoints(run: Path, which: Which, read_only: bool = False) -> ocp.CheckpointManager:
    """The `best` or `last` checkpoints of a run directory."""
    directory = run.absolute() / "checkpoints" / which
    options = ocp.CheckpointManagerOptions(
        max_to_keep=None if read_only else 1,
        read_only=read_only,
        create=not read_only,
        cleanup_tmp_directories=not read_only,  # what a killed process was still writing
    )
    if read_only and not directory.is_dir():
        raise CheckpointError(f"no checkpoints at {directory}: is {run} the directory of a run?")
    return ocp.CheckpointManager(directory, options=options)


def save_checkpoint(
    manager: ocp.CheckpointManager, step: int, tree: Tree, record: dict[str, Any]
) -> None:
    """Writes `tree` and `record` in the background under a step number.

    A step that is there already, left by a process that died, is replaced.
    """
    if step in manager.all_steps():
        manager.delete(step)
    manager.save(
        step,
        args=ocp.args.Composite(tree=ocp.args.StandardSave(tree), record=ocp.args.JsonSave(record)),
    )


def restore_record(manager: ocp.CheckpointManager) -> dict[str, Any]:
    """The record of the newest checkpoint.

    Raises CheckpointError when there is none.
    """
    step = manager.latest_step()
    if step is None:
        raise CheckpointError(f"no finished checkpoint in {manager.directory}: nothing to restore")
    return manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"]


def abstract_tree(tree: Tree) -> Tree:
    """Shapes, types and devices of a tree of arrays, which outlive the arrays."""
    abstract: Tree = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
    return abstract


def restore_tree(manager: ocp.CheckpointManager, like: Tree) -> Tree:
    """The tree of the newest checkpoint, on the devices of `like`, a tree of the same structure,
    of arrays or abstract.

    Raises CheckpointError when there is none, or its arrays have other names or shapes.
    """
    step = manager.latest_step()
    if step is None:
        raise CheckpointError(f"no finished checkpoint in {manager.directory}: nothing to restore")
    abstract = abstract_tree(like)
    try:
        tree: Tree = manager.restore(
            step, args=ocp.args.Composite(tree=ocp.args.StandardRestore(abstract))
        )["tree"]
        return tree
    except FileNotFoundError as error:
        raise CheckpointError(
            f"checkpoint {step} in {manager.directory} disappeared while it was read"
        ) from error
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"the checkpoint in {manager.directory} does not fit the model of its run: {error}"
        ) from error
