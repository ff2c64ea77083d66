"""Evaluating a finished or running run from its directory alone."""

import warnings
from pathlib import Path
from typing import Literal

from mmssl_jax.checkpoint import (
    CheckpointError,
    CheckpointWarning,
    DamagedError,
    open_checkpoints,
    restore_tree,
)
from mmssl_jax.config import Config, override
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.data.load import require_data
from mmssl_jax.files import user_path
from mmssl_jax.methods import METHODS
from mmssl_jax.records.read import DATASET_KEYS, DATASET_RECORD, read_json
from mmssl_jax.run_config import read_config
from mmssl_jax.training.errors import RunError
from mmssl_jax.training.problem import Problem, TrainState, load_problem, new_state
from mmssl_jax.training.programs import compile_embedding, split_evaluator
from mmssl_jax.training.recover import read_record


def restore_run(
    run: Path,
    checkpoint: Literal["best", "last"] = "best",
    data_path: str = "",
    devices: int = 0,
    dataset: Dataset | None = None,
) -> tuple[Problem, TrainState]:
    """Problem and state of a run's checkpoint, on this machine's devices (0 means all).

    dataset: used instead of reading the configured one, for a run that was given one.
    Raises RunError when `run` holds no run, DatasetError when its data has changed.
    """
    run = user_path(run)
    config = run_config(run)
    # The machine that evaluates need not have the devices of the one that trained.
    config = override(config, {"parallel.devices": devices})
    if data_path:
        config = override(config, {"data.path": data_path})
    if dataset is None:
        require_data(config.data, run)
    problem = load_problem(config, dataset)
    saved = read_json(run / "dataset.json", DATASET_RECORD, RunError, DATASET_KEYS)
    if saved["fingerprint"] != problem.dataset.fingerprint():
        raise DatasetError(
            f"{problem.dataset.source} is not the data that {run} was trained on "
            f"({saved['name']}: {saved['users']} users, {saved['items']} items); "
            "give that folder with --data_path"
        )
    return problem, restore_newest(run, checkpoint, new_state(problem), problem.config)


def run_config(run: Path) -> Config:
    """A run's own settings. Raises RunError when `run` holds no run."""
    if not (run / "config.yaml").is_file():
        raise RunError(f"{run / 'config.yaml'} is missing: {run} is not the directory of a run")
    return read_config(run / "config.yaml")


def restore_newest(
    run: Path, checkpoint: Literal["best", "last"], like: TrainState, config: Config
) -> TrainState:
    """The newest state of a run, which may be in training; where `last` is damaged, the one before
    it, with a warning. An older `best` is not the best.

    Such a run replaces its checkpoint, perhaps while it is read: then the newer one is read.
    Raises CheckpointError when there is none, or it is of other settings.
    """
    tried = None
    while True:
        with open_checkpoints(run, checkpoint, read_only=True) as checkpoints:
            steps, failure = sorted(checkpoints.all_steps(), reverse=True), None
            for step in steps if checkpoint == "last" else steps[:1]:
                try:
                    read_record(checkpoints, step, config)
                    state: TrainState = restore_tree(checkpoints, like, step)
                except CheckpointError as error:
                    is_there = Path(checkpoints.directory / str(step)).is_dir()
                    if is_there and not isinstance(error, DamagedError):
                        raise
                    failure = failure or error
                else:
                    if failure is not None:
                        warnings.warn(f"{failure}; step {step} is read", CheckpointWarning, 2)
                    return state
            if steps in (tried, []):
                why = "" if failure is None else f" ({failure})"
                raise CheckpointError(f"no whole checkpoint in {checkpoints.directory}{why}")
            tried = steps


def evaluate_run(
    run: str,
    split: Literal["validation", "test"] = "test",
    checkpoint: Literal["best", "last"] = "best",
    data_path: str = "",
    devices: int = 0,
) -> dict[str, float]:
    """Metrics of a run's checkpoint on a split.

    Args:
        run: the run's directory.
        split: held-out split to rank.
        checkpoint: the best epoch on validation, or the last one.
        data_path: dataset folder, if it has moved since training.
        devices: local devices to use; 0 means all.
    """
    problem, state = restore_run(Path(run), checkpoint, data_path, devices)
    return split_evaluator(problem, split)(compile_embedding(problem)(state))


def title_of(run: str) -> str:
    """The name of a run's method in tables. Raises RunError when `run` holds no run."""
    return METHODS[run_config(Path(run)).method].TITLE
