"""CrossView's settings; each part of the method can be switched off."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from mmssl_jax.config import Config, Fraction, OptimConfig, SamplingConfig, TrainConfig
from mmssl_jax.methods.mmssl.config import CriticConfig, GameConfig


@dataclass(frozen=True)
class ViewSettings:
    """Embeddings, and the views that are added to them."""

    dim: PositiveInt = 64
    """Width of every embedding."""
    layers: NonNegativeInt = 3
    """Propagation rounds over the interactions."""
    user_hops: NonNegativeInt = 3
    """Hops among users who share items; 0 leaves the users' view out."""
    item_hops: NonNegativeInt = 2
    """Hops among items of like content; 0 leaves the items' view out."""
    user_weight: NonNegativeFloat = 1.0
    """Length of the users' view where it is added to the users' vectors."""
    item_weight: NonNegativeFloat = 2.0
    """Length of the items' view where it is added to the items' vectors."""
    lean: NonNegativeFloat = 0.0
    """How much longer the items' view is for items with few training interactions d: by a factor
    1 + lean / (d + 1). New and rare items are found more often, others less."""
    taste_weight: NonNegativeFloat = 0.0
    """Length of the users' taste, the mean of their items' views, in the users' vectors; 0 leaves
    it out."""
    neighbours: PositiveInt = 5
    """Nearest items, itself included, of each item and modality."""


@dataclass(frozen=True)
class SoftmaxSettings:
    """The ranking loss."""

    kind: Literal["softmax", "bpr"] = "softmax"
    """Softmax over the positive and a sample of items, or BPR on one negative each."""
    negatives: PositiveInt = 512
    """Items of the sample, which the batch shares."""
    temperature: PositiveFloat = 0.2
    """Of the softmax."""
    user_norm: NonNegativeFloat = 1.0
    """Users' vectors are divided by this power of their length in the softmax: 1 for the cosine, 0
    for the inner product, anything between."""
    item_norm: NonNegativeFloat = 1.0
    """The same for items."""
    regularization: NonNegativeFloat = 0.0
    """Weight of half the squares of a batch's embeddings before propagation, per triple."""


@dataclass(frozen=True)
class ContrastSettings:
    """Contrast between a node's vector and its view."""

    users: NonNegativeFloat = 0.1
    """Weight for users."""
    items: NonNegativeFloat = 0.2
    """Weight for items."""
    temperature: PositiveFloat = 0.6
    """Of both."""
    nodes: PositiveInt = 512
    """Users, and items, that are contrasted in a step; all devices together."""


@dataclass(frozen=True)
class PlaySettings(GameConfig):
    """The adversarial game between generated and real rows; off unless `weight` is above 0."""

    weight: NonNegativeFloat = 0.0
    """Weight of the critic's score in the loss; 0 leaves the game out."""
    kind: Literal["adversarial"] = "adversarial"
    """The game is one against a critic."""
    users: PositiveInt = 512
    """Users whose rows are played in a step; all devices together."""
    critic_lr: PositiveFloat = 3e-4
    """Learning rate of the critic."""


@dataclass(frozen=True)
class CrossViewConfig(Config):
    """All settings of CrossView."""

    method: str = "crossview"
    """Method to train. Each has its own settings: --method NAME --help."""
    view: ViewSettings = field(default_factory=ViewSettings)
    softmax: SoftmaxSettings = field(default_factory=SoftmaxSettings)
    contrast: ContrastSettings = field(default_factory=ContrastSettings)
    game: PlaySettings = field(default_factory=PlaySettings)
    critic: CriticConfig = field(default_factory=lambda: CriticConfig(hidden=(128, 64)))
    averaging: Fraction = 0.98
    """What ranks are parameters averaged over steps, each step counting this much of the one after;
    0 for the last parameters alone."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(2048, "interaction"))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=2e-3))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(patience=10))
