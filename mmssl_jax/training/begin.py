"""How a run begins or goes on in a directory: what must hold, and what is written first."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax

from mmssl_jax.checkpoint import require_safe_path
from mmssl_jax.config import flatten
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.digest import digest_texts, digest_words
from mmssl_jax.hosts import (
    count,
    require_same,
)
from mmssl_jax.records.environment import environment
from mmssl_jax.records.log import write_json, write_text
from mmssl_jax.records.read import DATASET_RECORD, read_json
from mmssl_jax.run_config import config_diff, dump_config, read_config, without_hosts
from mmssl_jax.training.errors import RunError
from mmssl_jax.training.lock import LOCK, only_writer
from mmssl_jax.training.problem import Problem

# What a run writes up to its settings, with which it begins to exist, whole or in part.
STARTED = ("environment.json", "dataset.json", LOCK)


UNFINISHED = tuple(f"{name}.part" for name in (*STARTED, "config.yaml"))


# What hosts may have of their own: their number, and places on their disks.
OF_A_HOST = ("parallel.process", "parallel.compilation_cache", "data.path", "data.format")


def require_place(run: Path, resume: bool) -> None:
    """Raises RunError or CheckpointError where a run cannot begin or go on in a directory."""
    if run.exists() and not run.is_dir():
        raise RunError(f"{run} is a file: name a directory with --run")
    require_safe_path(run)
    (require_run if resume else require_no_run)(run)


def require_same_on_all(problem: Problem) -> None:
    """Raises HostError unless all hosts have the same settings, data, and what is computed from
    them, which all hold whole."""
    if count() == 1:
        return
    settings = {key: x for key, x in flatten(problem.config).items() if key not in OF_A_HOST}
    words = jax.jit(digest_words)(problem.inputs)
    computed = digest_texts(problem.inputs, words)
    require_same(
        settings
        | {f"dataset {key}": value for key, value in dataset_record(problem.dataset).items()}
        | {f"computed from the data: {name}": text for name, text in computed.items()}
    )


def begin_run(problem: Problem, run: Path, resume: bool, held: ExitStack) -> list[str] | None:
    """Takes the run's directory and writes what a new run is; for one that goes on, one line per
    changed setting.

    held: keeps the directory's lock. Raises RunError.
    """
    held.enter_context(only_writer(run))
    if resume:
        return resume_run(problem, run)
    start_run(problem, run)
    return None


def require_run(run: Path) -> None:
    """Raises RunError when there is no run in a directory."""
    for name in ("config.yaml", "dataset.json"):
        if not (run / name).is_file():
            raise RunError(f"{run / name} is missing: there is no run to resume in {run}")


def require_no_run(run: Path) -> None:
    """Raises RunError when there is a run, or anything else, in a directory."""
    # Without settings nothing was trained: a start that was killed may start again.
    if run.exists() and any(path.name not in (*STARTED, *UNFINISHED) for path in run.iterdir()):
        raise RunError(
            f"{run} is not empty: add --resume (in Python, resume=True) to continue the run in it, "
            "or name another --run"
        )


def start_run(problem: Problem, run: Path) -> None:
    """Writes what the run is, in its directory.

    Raises RunError when there is a run in it.
    """
    require_no_run(run)  # another process may have begun one meanwhile
    write_json(run / "environment.json", environment(problem.devices))
    write_json(run / "dataset.json", dataset_record(problem.dataset))
    write_text(run / "config.yaml", dump_config(without_hosts(problem.config)))


def dataset_record(dataset: Dataset) -> dict[str, Any]:
    """What identifies a dataset."""
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint(),
        "users": dataset.n_users,
        "items": dataset.n_items,
        **{split: len(edges) for split, edges in dataset.splits.items()},
        "modalities": {name: raw.shape[1] for name, raw in dataset.features.items()},
    }


def dataset_differences(saved: Path, now: dict[str, Any], where: str) -> list[str]:
    """One line per entry of a dataset's record that differs from the file, which is `where`."""
    before = read_json(saved, DATASET_RECORD, RunError)
    return [
        f"dataset {key}: {before.get(key)} {where}, {value} now"
        for key, value in now.items()
        if before.get(key) != value
    ]


def resume_run(problem: Problem, run: Path) -> list[str]:
    """Returns one line per changed setting of `optim`, by which a run may go on otherwise.

    Raises RunError, with the differences, unless `run` holds this very run.
    """
    lines = config_diff(read_config(run / "config.yaml"), problem.config)
    changed = [line for line in lines if line.startswith("optim.")]
    differences = [line for line in lines if line not in changed]
    differences += dataset_differences(
        run / "dataset.json", dataset_record(problem.dataset), "in the run"
    )
    if differences:
        raise RunError(
            f"cannot resume {run}: it was started with other settings or data\n  "
            + "\n  ".join(differences)
            + "\nTake them back, or start a new run with another --run"
        )
    return changed
