"""Every setting, one frozen dataclass per stage.

The defaults are the `paper` preset. A docstring ends with the value of the PyTorch release where it
differs in kind (`release: ...`); `presets.py` lists those departures. `run_config.py` turns these
classes into flags and YAML keys.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from jsonargparse.typing import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    restricted_number_type,
)

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
    seed: NonNegativeInt = 0
    """Seed of the synthetic dataset, and of the choice of cold items."""
    cold_items: Fraction = 0.0  # type: ignore[valid-type]
    """Share of the items whose interactions are all held out, to test new items on:
    eval.py --cold_items."""


@dataclass(frozen=True)
class ModelConfig:
    """Encoders, propagation, attention and fusion."""

    dim: PositiveInt = 64
    """Width of every embedding."""
    heads: PositiveInt = 4
    """Heads of the cross-modal attention; divides `dim`."""
    gnn_layers: NonNegativeInt = 2
    """Propagation rounds of the ID embeddings over the observed graph."""
    dropout: Fraction = 0.2  # type: ignore[valid-type]
    """Dropout rate of the projected features."""
    id_fusion: NonNegativeFloat = 0.36
    """Weight of the normalised modality-aware ID embedding added to the ID embedding."""
    feature_fusion: NonNegativeFloat = 0.55
    """Weight of each normalised modality feature added to the final embedding."""
    feature_normalization: Literal["receiver", "symmetric", "mean"] = "receiver"
    """Edge weights that features propagate with: 1/sqrt(d_r), 1/sqrt(d_r d_s) or 1/d_r."""
    id_normalization: Literal["receiver", "symmetric", "mean"] = "receiver"
    """Edge weights of the light GCN; symmetric is LightGCN's own."""
    attention_values: Literal["keys", "queries"] = "keys"
    """Axis the attention's values lie on; release: queries, so that Q and K have no effect."""
    last_layer_softmax: bool = False
    """Softmax over the channels after the last propagation round; release: true."""
    propagation_order: Literal["simultaneous", "users_first"] = "users_first"
    """users_first: items gather the users' new embeddings within a round (also the release)."""


@dataclass(frozen=True)
class StructureConfig:
    """The learned user-item graph of each modality."""

    k: PositiveInt = 10
    """Learned edges per user."""
    k_rate: NonNegativeFloat | None = None
    """If set, k is int(k_rate * items), which may be 0; release: 1e-4."""
    similarity: Literal["dot", "cosine"] = "cosine"
    """Score of a user and an item by their modality features; release: dot."""
    source: Literal["all_users", "batches"] = "all_users"
    """Whose rows a rebuild covers: all users, or the batches since the last; release: batches."""
    every: NonNegativeInt = 0
    """T, steps between rebuilds; 0 rebuilds at the start of every epoch; release: 1. Until the
    first of T > 0 steps are done, the graph is the observed one."""
    edge_users: Literal["own", "tiled"] = "own"
    """tiled: the release's mismatch, which gives most edges to the wrong user for k > 1."""
    mask_observed: bool = False
    """Scores of observed pairs are 0 in generated rows and learned graphs; release: true."""
    block_users: PositiveInt = 1024
    """Users scored at once in a rebuild over all users."""
    block_items: PositiveInt = 32768
    """Items scored at once in a rebuild, whose memory is block_users x block_items."""


@dataclass(frozen=True)
class CriticConfig:
    """The network that tells generated rows from real ones."""

    hidden: tuple[PositiveFloat, ...] = (512, 256)
    """Hidden widths; a number below 1 is a fraction of the items; release: 0.25, 0.125."""
    norm: Literal["layer", "batch"] = "layer"
    """Normalisation after each hidden layer; release: batch."""
    slope: NonNegativeFloat = 0.2
    """Negative slope of the leaky ReLU; release: 1.0, the identity."""
    score_bound: NonNegativeFloat = 0.0
    """The score is score_bound * sigmoid(output), or linear for 0; release: 100."""
    dropout: tuple[Fraction, ...] = (0.31, 0.5)  # type: ignore[valid-type]
    """Dropout rate after each hidden layer; as many as `hidden`."""


@dataclass(frozen=True)
class GameConfig:
    """The adversarial game between generated and real interaction rows."""

    weight: NonNegativeFloat = 1e-4
    """Weight of the critic's score in the generator's loss; 0 leaves the game out."""
    kind: Literal["adversarial", "edge_likelihood"] = "adversarial"
    """edge_likelihood: no critic; the likelihood of edges under each modality's inner products,
    with the same weight (the ablation r/p-GAE)."""
    real_rows: Literal["gumbel", "observed"] = "gumbel"
    """Real rows: Gumbel-softened with the model's own scores, or the training rows as they are
    (the ablation w/o-GT)."""
    gradient_penalty: NonNegativeFloat = 0.3
    """Weight of the gradient penalty in the critic's loss."""
    temperature: PositiveFloat = 0.005
    """Temperature of the softened real rows."""
    temperature_scope: Literal["logit", "noise"] = "logit"
    """What the temperature divides: (A + s g)/t, or only the noise, A + s g/t; release: noise."""
    gumbel_scale: NonNegativeFloat = 1e-5
    """Scale s of the Gumbel noise g."""
    score_weight: NonNegativeFloat = 1.0
    """Weight zeta of the model's unit score row in a real row of norm 1; release: 100."""
    block_items: PositiveInt = 8192
    """Items of a dense real row held at once; bounds its memory."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the generator's other losses."""

    embedding_l2: NonNegativeFloat = 1e-5
    """Weight of |e|^2/2 of the batch's embeddings, per triple."""
    l2_target: Literal["final", "initial"] = "final"
    """Embeddings it acts on: final (fused), or initial (ID)."""
    feature_l2: NonNegativeFloat = 1e-5
    """Weight of |f|^2/2 of all modality features, per item."""
    contrastive: NonNegativeFloat = 0.03
    """Weight of each modality's contrastive loss."""
    temperature: PositiveFloat = 0.5
    """Temperature tau of the contrastive loss."""
    mask_repeated: bool = True
    """A user that a batch holds more than once is no negative of itself in the contrastive loss;
    release: false. A batch holds none twice while `sampling.by` is user and users are enough."""


@dataclass(frozen=True)
class SamplingConfig:
    """How a training batch is drawn."""

    batch_size: PositiveInt = 1024
    """Triples (user, positive, negative) per step, over all devices."""
    by: Literal["user", "interaction"] = "user"
    """Users uniformly without replacement, or interactions uniformly, so active users recur."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW for the generator, Adam for the critic."""

    lr: PositiveFloat = 5.5e-4
    """Learning rate of the generator."""
    lr_decay: UpToOne = 0.96  # type: ignore[valid-type]
    """The rate in epoch e is lr * lr_decay^(e/50); release: never stepped, so 1."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay of the generator."""
    critic_lr: PositiveFloat = 3e-4
    """Learning rate of the critic."""
    critic_betas: tuple[Fraction, Fraction] = (0.5, 0.9)  # type: ignore[valid-type]
    """Adam's moment decays for the critic."""


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
    shared_forward: bool = True
    """Critic and generator step see the same dropout masks, so one forward pass serves both;
    release: false."""
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
    """Local devices to use; 0 means all. The batch size is a multiple of their number."""
    transform: Literal["pmap", "shard_map"] = "pmap"
    """JAX transform that spreads the per-device step; both give the same numbers."""
    compilation_cache: str = "auto"
    """Folder where compiled programs are kept for later processes; auto is `mmssl_jax` in the
    user's cache folder, off keeps none. JAX's own JAX_COMPILATION_CACHE_DIR goes before."""


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    preset: Literal["paper", "released"] = "paper"
    """Values that the departures of the PyTorch release start from; other keys override them."""
    precision: Literal["float32", "bfloat16", "tensorfloat32"] = "float32"
    """Operands of the critic's and the ranking's matrix products; sums stay float32. Where the
    hardware lacks it, operands are rounded alike, for no gain in speed."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    structure: StructureConfig = field(default_factory=StructureConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    game: GameConfig = field(default_factory=GameConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)


class ConfigError(ValueError):
    """Settings that do not fit together."""


def check_config(config: Config) -> None:
    """Raises ConfigError for settings that are valid alone but not together."""
    if config.data.format != "synthetic" and not config.data.path:
        raise ConfigError(
            "data.path is empty: give the dataset folder with --data.path DIR, "
            "or use --data.format synthetic"
        )
    if config.data.format == "synthetic" and config.data.path:
        raise ConfigError(
            f"data.path is {config.data.path}, but data.format is synthetic, which reads none: "
            "add --data.format auto to train on the folder, or leave data.path out"
        )
    if config.model.dim % config.model.heads:
        raise ConfigError(
            f"model.heads is {config.model.heads}, which does not divide "
            f"model.dim {config.model.dim}"
        )
    if len(config.critic.hidden) != len(config.critic.dropout) or not config.critic.hidden:
        raise ConfigError(
            f"critic.dropout has {len(config.critic.dropout)} rates for "
            f"{len(config.critic.hidden)} widths in critic.hidden; give one rate per width"
        )
    if any(width >= 1 and width != int(width) for width in config.critic.hidden):
        raise ConfigError(
            f"critic.hidden is {list(config.critic.hidden)}: a width is a whole number of units, "
            "or a fraction of the items below 1"
        )
    if config.structure.source == "batches" and config.structure.every == 0:
        raise ConfigError(
            "structure.source batches needs structure.every >= 1: "
            "the steps after which the collected edges become the graph"
        )
    if not config.eval.ks:
        raise ConfigError("eval.ks is empty: give at least one list length")
    monitors = [f"{name}@{k}" for k in config.eval.ks for name in METRIC_NAMES]
    if config.train.monitor not in monitors:
        raise ConfigError(
            f"train.monitor is {config.train.monitor!r}; with eval.ks "
            f"{list(config.eval.ks)} it is one of {', '.join(monitors)}"
        )


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


def override(config: Config, changes: dict[str, Any]) -> Config:
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
