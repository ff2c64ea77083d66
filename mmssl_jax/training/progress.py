"""How far a run is, and where what it brings goes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import orbax.checkpoint as ocp

from mmssl_jax.config import Config
from mmssl_jax.records.events import WriteEvents


class Progress(NamedTuple):
    """How far a run is, and what early stopping knows."""

    epochs: int = 0
    steps: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    misses: int = 0

    def after(self, value: float, steps: int) -> "Progress":
        """Progress after one more epoch with this validation value."""
        if value > self.best:
            return Progress(self.epochs + 1, steps, value, self.epochs, 0)
        return self._replace(epochs=self.epochs + 1, steps=steps, misses=self.misses + 1)

    def is_over(self, config: Config) -> bool:
        """Whether the run has reached its epochs, its steps, or the end of its patience."""
        train = config.train
        out_of_steps = train.max_steps and self.steps >= train.max_steps
        return bool(self.epochs >= train.epochs or out_of_steps or self.misses > train.patience)

    def may_end(self, config: Config, n_steps: int) -> bool:
        """Whether one more epoch, of this many steps, can be the last, whatever it brings."""
        return self.after(-math.inf, self.steps + n_steps).is_over(config)


class Checkpoints(NamedTuple):
    """The two checkpoint managers of a run."""

    best: ocp.CheckpointManager
    last: ocp.CheckpointManager


class Outlets(NamedTuple):
    """Where an epoch's figures go: the run's directory and checkpoints, events, and the screen.

    settings: of the run, which each record holds.
    """

    run: Path
    settings: dict[str, Any]
    checkpoints: Checkpoints
    write_events: WriteEvents
    say: Callable[[str], None]
    quiet: bool
