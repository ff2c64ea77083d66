"""A problem small enough to train in a second, in memory and as a folder."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import Config, override
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.data.synthetic import planted_dataset
from mmssl_jax.presets import preset_config
from mmssl_jax.training import loop
from mmssl_jax.training.problem import Problem, Programs, compile_programs, new_state
from mmssl_jax.training.state import TrainState

PRESETS = ("paper", "released")
STEPS = 5  # per epoch
CHANGES = {
    "data.format": "synthetic",
    "model.dim": 8,
    "model.heads": 2,
    "structure.k": 3,
    "structure.block_users": 16,
    "critic.hidden": (8, 4),
    "sampling.batch_size": 48,
    "train.epochs": 3,
    "eval.ks": (5, 20),
    "eval.block_users": 16,
    "optim.lr": 0.01,  # at which later epochs are better
    "parallel.devices": 1,
}


def tiny_config(preset: str = "paper", changes: Mapping[str, Any] | None = None) -> Config:
    """A preset at tiny sizes; the released one learns edges, as it does on a large catalogue."""
    by_rate = {"structure.k_rate": 0.1} if preset == "released" else {}
    return override(preset_config(preset), {**CHANGES, **by_rate, **(changes or {})})


def tiny_dataset(seed: int = 0) -> Dataset:
    return planted_dataset(seed=seed, n_users=60, n_items=40, n_topics=8, width=6)


def partial_dataset() -> Dataset:
    """Some items lack a modality, some lack both, and user 3 has no item with `visual`; in place of
    features that are not there are large numbers, which nothing may read."""
    plain = tiny_dataset()
    present = np.random.default_rng(5).random((2, plain.n_items)) < 0.6
    present[1, plain.train[plain.train[:, 0] == 3, 1]] = False
    presence = dict(zip(plain.modalities, present, strict=True))
    features = {
        m: np.where(presence[m][:, None], x, np.float32(1e3)) for m, x in plain.features.items()
    }
    return dataclasses.replace(plain, features=features, presence=presence)


def write_folder(dataset: Dataset, folder: Path) -> Path:
    """Writes a dataset in MMRec's layout."""
    folder.mkdir(parents=True)
    lines = ["userID\titemID\tx_label"]
    for label, edges in enumerate(dataset.splits.values()):
        lines += [f"{user}\t{item}\t{label}" for user, item in edges.tolist()]
    (folder / "tiny.inter").write_text("\n".join(lines) + "\n")
    for name, features in dataset.features.items():
        np.save(folder / f"{name}_feat.npy", features)
    return folder


def flags(changes: Mapping[str, Any]) -> list[str]:
    """The same settings as command line flags."""
    return [
        f"--{key}={list(value) if isinstance(value, tuple) else value}"
        for key, value in changes.items()
    ]


def share_programs(patch: pytest.MonkeyPatch) -> None:
    """Lets runs of one process that differ in their length alone share what they compile."""

    def key_of(problem: Problem) -> tuple[Config, str]:
        length = {"train.epochs": 1, "train.max_steps": 0}
        return override(problem.config, length), problem.dataset.fingerprint()

    def shared(problem: Problem) -> tuple[Programs, TrainState]:
        key = key_of(problem)
        if key not in _compiled:
            _compiled[key] = compile_programs(problem), new_state(problem)
        return _compiled[key]

    def on_splits(problem: Problem, splits: tuple[str, ...]) -> Programs:
        programs = shared(problem)[0]
        evaluators = {name: e for name, e in programs.evaluators.items() if name in splits}
        return programs._replace(evaluators=evaluators)

    patch.setattr(loop, "compile_programs", on_splits)
    # A run uses its state up.
    patch.setattr(loop, "new_state", lambda problem: jax.tree.map(jnp.copy, shared(problem)[1]))


_compiled: dict[tuple[Config, str], tuple[Programs, TrainState]] = {}
