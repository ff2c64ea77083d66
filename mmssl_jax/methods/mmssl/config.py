"""MMSSL's own settings. The defaults are the `paper` preset.

A docstring ends with the value of the PyTorch release where it differs in kind (`release: ...`);
`presets.py` lists those departures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from mmssl_jax.config import (
    Config,
    ConfigError,
    Fraction,
    OptimConfig,
    TrainConfig,
    UpToOne,
    override,
)
from mmssl_jax.methods.mmssl.presets import PRESETS


@dataclass(frozen=True)
class ModelConfig:
    """Encoders, propagation, attention and fusion."""

    dim: PositiveInt = 64
    """Width of every embedding."""
    heads: PositiveInt = 4
    """Heads of the cross-modal attention; divides `dim`."""
    gnn_layers: NonNegativeInt = 2
    """Propagation rounds of the ID embeddings over the observed graph."""
    dropout: Fraction = 0.2
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
    dropout: tuple[Fraction, ...] = (0.31, 0.5)
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
class PlayersConfig(OptimConfig):
    """AdamW for the generator, Adam for the critic."""

    lr: PositiveFloat = 5.5e-4
    """Learning rate of the generator."""
    lr_decay: UpToOne = 0.96
    """The rate in epoch e is lr * lr_decay^(e/50); release: never stepped, so 1."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay of the generator."""
    critic_lr: PositiveFloat = 3e-4
    """Learning rate of the critic."""
    critic_betas: tuple[Fraction, Fraction] = (0.5, 0.9)
    """Adam's moment decays for the critic."""


@dataclass(frozen=True)
class GameTrainConfig(TrainConfig):
    """Length and seed of a run, and the players' dropout."""

    shared_forward: bool = True
    """Critic and generator step see the same dropout masks, so one forward pass serves both;
    release: false."""


@dataclass(frozen=True)
class MMSSLConfig(Config):
    """All settings of MMSSL."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    method: str = "mmssl"
    """Method to train. Each has its own settings: --method NAME --help."""
    preset: Literal["paper", "released"] = "paper"
    """Values that the departures of the PyTorch release start from; other keys override them."""
    model: ModelConfig = field(default_factory=ModelConfig)
    structure: StructureConfig = field(default_factory=StructureConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    game: GameConfig = field(default_factory=GameConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: PlayersConfig = field(default_factory=PlayersConfig)
    train: GameTrainConfig = field(default_factory=GameTrainConfig)

    @property
    def has_critic(self) -> bool:
        """Whether the adversarial game is played: without it there is no critic."""
        return bool(self.game.weight) and self.game.kind == "adversarial"

    def check(self) -> None:
        """Raises ConfigError for settings that are valid alone but not together."""
        super().check()
        if self.model.dim % self.model.heads:
            raise ConfigError(
                f"model.heads is {self.model.heads}, which does not divide "
                f"model.dim {self.model.dim}"
            )
        if len(self.critic.hidden) != len(self.critic.dropout) or not self.critic.hidden:
            raise ConfigError(
                f"critic.dropout has {len(self.critic.dropout)} rates for "
                f"{len(self.critic.hidden)} widths in critic.hidden; give one rate per width"
            )
        if any(width >= 1 and width != int(width) for width in self.critic.hidden):
            raise ConfigError(
                f"critic.hidden is {list(self.critic.hidden)}: a width is a whole number of units, "
                "or a fraction of the items below 1"
            )
        if self.structure.source == "batches" and self.structure.every == 0:
            raise ConfigError(
                "structure.source batches needs structure.every >= 1: "
                "the steps after which the collected edges become the graph"
            )


def preset_config(name: str) -> MMSSLConfig:
    """The settings of a preset, with defaults elsewhere."""
    return override(MMSSLConfig(), {"preset": name, **PRESETS[name]})
