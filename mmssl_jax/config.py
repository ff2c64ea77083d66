"""The settings that every method shares, one frozen dataclass per stage.

A method adds its own: a subclass of `Config` with further stages, and other defaults where it wants
them. `run_config.py` turns these classes into flags and YAML keys.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from jsonargparse.typing import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    restricted_number_type,
)

AUTO = "auto"  # of parallel.coordinator: the cluster's environment names it
METRIC_NAMES = ("recall", "precision", "ndcg", "hit_ratio", "release_ndcg")

Fraction = restricted_number_type(
    "Fraction", float, [(">=", 0), ("<", 1)], docstring="a number in [0, 1)"
)
UpToOne = restricted_number_type(
    "UpToOne", float, [(">", 0), ("<=", 1)], docstring="a number in (0, 1]"
)


@dataclass(frozen=True)
class DataConfig:
    """Where the interactions and features come from."""

    path: str = ""
    """Dataset folder; not needed for format `synthetic`."""
    format: Literal["auto", "hkuds", "diffmm", "mmrec", "synthetic"] = "auto"
    """Layout of the folder; `auto` recognises it, `synthetic` plants a dataset and reads none: with
    modalities visual and acoustic, and textual where `modalities` names it."""
    modalities: tuple[str, ...] = ()
    """Modalities to use; empty means all that are found."""
    neighbours: Literal["nearest", "random"] = "nearest"
    """What stands for an item's nearest by features, in methods that look for them: these, or, to
    test what they are worth, as many drawn at random."""
    features: Literal["real", "noise", "shuffled", "shuffled_each", "constant", "misplaced"] = (
        "real"
    )
    """Features of the items: their own; or, to test what these are worth, normal noise of each
    column's mean and deviation, all rows in another order (one for all modalities, or one for
    each), the same row for every item, or another item's row for some items."""
    replaced: tuple[str, ...] = ()
    """Modalities that `features` is about, where it is not `real`; empty means all."""
    misplaced: Fraction = 0.1  # type: ignore[valid-type]
    """Share of the items that get another item's features, with `features` misplaced."""
    seed: NonNegativeInt = 0
    """Seed of the synthetic dataset, of the choice of cold items, of random neighbours, and of
    what `features` draws."""
    cold_items: Fraction = 0.0  # type: ignore[valid-type]
    """Share of the items whose interactions are all held out, to test new items on:
    eval.py --cold_items."""


@dataclass(frozen=True)
class SamplingConfig:
    """How a training batch is drawn."""

    batch_size: PositiveInt = 1024
    """Triples (user, positive, negative) per step, over all devices."""
    by: Literal["user", "interaction"] = "user"
    """Users uniformly without replacement, or interactions uniformly, so active users recur."""
    negatives: Literal["all", "trained"] = "all"
    """Items that negatives are drawn from: all, or those with a training interaction."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW."""

    lr: PositiveFloat = 1e-3
    """Learning rate."""
    lr_decay: UpToOne = 1.0  # type: ignore[valid-type]
    """The rate in epoch e is lr * lr_decay^(e/50)."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""


@dataclass(frozen=True)
class TrainConfig:
    """Length and seed of a run."""

    epochs: PositiveInt = 1000
    """Most epochs; an epoch has train interactions // batch_size + 1 steps."""
    patience: PositiveInt = 7
    """Training stops when this many epochs in a row plus one bring no better `monitor`."""
    monitor: str = "recall@20"
    """Validation metric that picks the best epoch; larger is better."""
    seed: NonNegativeInt = 2022
    """Seed of initialisation, sampling, dropout and noise."""
    max_steps: NonNegativeInt = 0
    """Ends the run after this many steps, for smoke tests; 0 means no such limit."""
    checkpoint_minutes: NonNegativeFloat = 10.0
    """Within an epoch that takes longer the state is saved as often; 0 saves after epochs alone."""
    tensorboard: bool = False
    """Also write TensorBoard events into RUN/tensorboard; needs the extra `tensorboard`."""


@dataclass(frozen=True)
class EvalConfig:
    """All-rank evaluation."""

    ks: tuple[PositiveInt, ...] = (10, 20, 50)
    """List lengths K of the metrics."""
    mask: Literal["train", "train_validation"] = "train"
    """Items left out of a user's list at test time; validation always masks `train`."""
    block_users: PositiveInt = 1024
    """Users ranked at once."""
    block_items: PositiveInt = 32768
    """Items scored at once; the memory is block_users x block_items."""


@dataclass(frozen=True)
class ParallelConfig:
    """Devices, how batches are spread over them, and what is compiled for them."""

    devices: NonNegativeInt = 0
    """Local devices to use, of each host; 0 means all. The batch size is a multiple of the number
    of all."""
    tables: Literal["auto", "sharded", "replicated"] = "auto"
    """Whether rows of users and items are spread over the devices, or every device has all of them.
    Both give the same numbers to rounding; auto spreads them over more than one device where the
    method can."""
    transform: Literal["pmap", "shard_map"] = "pmap"
    """JAX transform that spreads the per-device work over replicated tables; both give the same
    numbers. Sharded tables and several hosts use shard_map, whatever this says."""
    compilation_cache: str = "auto"
    """Folder where compiled programs are kept for later processes; auto is `mmssl_jax` in the
    user's cache folder, off keeps none. JAX's own JAX_COMPILATION_CACHE_DIR goes before."""
    coordinator: str = ""
    """Where several hosts that train one run find each other: HOST:PORT of process 0, the same on
    all; `auto` where the cluster's environment says it, as Slurm's and a TPU pod's do. Empty: one
    host. It is no part of the run, and given anew when one goes on."""
    process: NonNegativeInt = 0
    """This host's number among `processes`, from 0; process 0 alone writes and prints."""
    processes: PositiveInt = 1
    """How many hosts train the run; with `coordinator` HOST:PORT alone."""

    def check(self) -> None:
        """Raises ConfigError for hosts that could not find each other."""
        given = f"parallel.process is {self.process} and parallel.processes {self.processes}"
        if self.coordinator in ("", AUTO):
            if (self.process, self.processes) == (0, 1):
                return
            advice = (
                "give the address of process 0 with --parallel.coordinator HOST:PORT"
                if not self.coordinator
                else "leave both out: the cluster's environment says them"
            )
            raise ConfigError(
                f"{given}, but parallel.coordinator is {self.coordinator or 'empty'}: {advice}"
            )
        host, _, port = self.coordinator.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 65536):
            raise ConfigError(
                f"parallel.coordinator is {self.coordinator!r}, expected HOST:PORT of process 0, "
                f"such as 10.0.0.1:1234, or {AUTO}"
            )
        if self.processes < 2:
            raise ConfigError(
                f"parallel.coordinator is {self.coordinator}, but parallel.processes is 1: give "
                "the number of hosts, or leave the coordinator out"
            )
        if self.process >= self.processes:
            raise ConfigError(f"{given}: hosts are numbered from 0 to {self.processes - 1}")


@dataclass(frozen=True)
class Config:
    """The settings of a run that every method has. A method's own are further fields of a subclass,
    each a stage (a frozen dataclass) under a key of its own."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named values of some settings, which files and flags override; chosen by a field `preset`."""

    method: str = ""
    """Method to train. Each has its own settings: --method NAME --help."""
    precision: Literal["float32", "bfloat16", "tensorfloat32"] = "float32"
    """Operands of the ranking's matrix products, and of those of a method that says so; sums stay
    float32. Where the hardware lacks it, operands are rounded alike, for no gain in speed."""
    data: DataConfig = field(default_factory=DataConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def check(self) -> None:
        """Raises ConfigError for settings that are valid alone but not together."""
        self.parallel.check()
        if self.data.format != "synthetic" and not self.data.path:
            raise ConfigError(
                "data.path is empty: give the dataset folder with --data.path DIR, "
                "or use --data.format synthetic"
            )
        if self.data.format == "synthetic" and self.data.path:
            raise ConfigError(
                f"data.path is {self.data.path}, but data.format is synthetic, which reads none: "
                "add --data.format auto to train on the folder, or leave data.path out"
            )
        if self.data.features == "real" and self.data.replaced:
            raise ConfigError(
                f"data.replaced names {', '.join(self.data.replaced)}, but data.features is real, "
                "which replaces none: choose another, such as --data.features noise"
            )
        if self.data.features == "misplaced" and not self.data.misplaced:
            raise ConfigError(
                "data.features is misplaced, but data.misplaced is 0, which changes nothing: give "
                "a share of the items, such as --data.misplaced 0.1"
            )
        if not self.eval.ks:
            raise ConfigError("eval.ks is empty: give at least one list length")
        monitors = [f"{name}@{k}" for k in self.eval.ks for name in METRIC_NAMES]
        if self.train.monitor not in monitors:
            raise ConfigError(
                f"train.monitor is {self.train.monitor!r}; with eval.ks "
                f"{list(self.eval.ks)} it is one of {', '.join(monitors)}"
            )


class ConfigError(ValueError):
    """Settings that do not fit together."""


AnyConfig = TypeVar("AnyConfig", bound=Config)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"optim.lr": 5.5e-4, ...}`: every leaf of a config by its dotted key."""
    flat: dict[str, Any] = {}
    for entry in dataclasses.fields(config):
        value, key = getattr(config, entry.name), prefix + entry.name
        if dataclasses.is_dataclass(value):
            flat.update(flatten(value, key + "."))
        else:
            flat[key] = value
    return flat


def override(config: AnyConfig, changes: Mapping[str, Any]) -> AnyConfig:
    """A copy of `config` with dotted keys changed, e.g. `{"optim.lr": 1e-3}`.

    Raises ConfigError for a key that does not exist.
    """
    known = flatten(config)
    for key, value in changes.items():
        if key not in known:
            raise ConfigError(f"there is no setting {key!r}")
        *stage_name, name = key.split(".")
        if stage_name:
            value = dataclasses.replace(getattr(config, stage_name[0]), **{name: value})
            name = stage_name[0]
        change: dict[str, Any] = {name: value}
        config = dataclasses.replace(config, **change)
    return config
