"""Matrix factorisation trained by BPR: Rendle, Freudenthaler, Gantner and Schmidt-Thieme, "BPR:
Bayesian Personalized Ranking from Implicit Feedback", UAI 2009 (arXiv 1205.2618).

With vectors p_u of users and q_i of items and, with `mf.item_bias`, a number b_i of each item:

    s_ui = p_u . q_i + b_i
    loss = mean over (u, i, j) of -log sigmoid(s_ui - s_uj)
           + regularization * mean over (u, i, j) of
             (|p_u|^2 + |q_i|^2 + |q_j|^2 + b_i^2 + b_j^2) / 2

over a batch of triples, i a training item of u and j not. What ranks are the vectors [p_u, 1] and
[q_i, b_i], whose inner product is s_ui.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from jsonargparse.typing import NonNegativeFloat, PositiveFloat, PositiveInt

from mmssl_jax.config import Config, OptimConfig, SamplingConfig, TrainConfig
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.rows import InteractionRows, interaction_rows
from mmssl_jax.losses.bpr import bpr_loss, embedding_l2
from mmssl_jax.method import Metrics, Vectors
from mmssl_jax.methods.trained import Step, Trained
from mmssl_jax.optimizers import Descent
from mmssl_jax.sampling import Batch


@dataclass(frozen=True)
class MFSettings:
    """Embeddings, bias and regularisation."""

    dim: PositiveInt = 64
    """Width of the vectors of users and items, without the bias."""
    item_bias: bool = False
    """Whether every item has a bias, which learns how popular it is."""
    init_deviation: PositiveFloat = 0.1
    """Standard deviation of the first vectors' entries; biases start at 0."""
    regularization: NonNegativeFloat = 0.1
    """Weight of half the squares of a batch's vectors and biases, per triple."""


@dataclass(frozen=True)
class MFConfig(Config):
    """All settings of matrix factorisation."""

    method: str = "mf"
    """Method to train. Each has its own settings: --method NAME --help."""
    mf: MFSettings = field(default_factory=MFSettings)
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(by="interaction"))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-3))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(patience=20))


class Inputs(NamedTuple):
    """The training interactions by user."""

    rows: InteractionRows


class Params(NamedTuple):
    """p_u, and q_i or [q_i, b_i]."""

    users: Float[Array, "U D"]
    items: Float[Array, "I E"]


def scoring_vectors(params: Params) -> Vectors:
    """Vectors whose inner products are the scores: users get a 1 where items have a bias."""
    missing = params.items.shape[1] - params.users.shape[1]
    users = jnp.pad(params.users, ((0, 0), (0, missing)), constant_values=1.0)
    return Vectors(users, params.items)


def mf_loss(params: Params, batch: Batch, regularization: float) -> tuple[Array, Metrics]:
    """The loss of a batch of triples, and what of it is logged."""
    users = params.users[batch.users]
    positives, negatives = params.items[batch.positives], params.items[batch.negatives]
    bpr = bpr_loss(scoring_vectors(Params(users, positives)).users, positives, negatives)
    total = bpr + regularization * (embedding_l2(users) + embedding_l2(positives, negatives))
    return total, {"bpr": bpr, "loss": total}


@dataclass(frozen=True)
class MF(Trained):
    """Matrix factorisation behind the contract of `mmssl_jax/method.py`."""

    TITLE: ClassVar[str] = "BPR-MF"
    CONFIG: ClassVar[type[Config]] = MFConfig
    SPACE: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "optim.lr": {"low": 1e-3, "high": 3e-2, "log": True},
        "mf.regularization": {"low": 1e-3, "high": 1.0, "log": True},
        "mf.item_bias": {"choices": [False, True]},
    }

    def inputs(self, dataset: Dataset) -> Inputs:
        """The training interactions by user, which batches are drawn from."""
        return Inputs(interaction_rows(dataset.train, dataset.n_users, dataset.n_items))

    def parameters(self, key: Key[Array, ""], inputs: Inputs) -> Params:
        """Normal vectors and no bias yet."""
        user_key, item_key = jax.random.split(key)
        settings, normal = self.config.mf, jax.random.normal
        users = settings.init_deviation * normal(user_key, (self.n_users, settings.dim))
        items = settings.init_deviation * normal(item_key, (self.n_items, settings.dim))
        return Params(users, jnp.pad(items, ((0, 0), (0, settings.item_bias))))

    def loss(self, params: Params, step: Step, inputs: Inputs) -> tuple[Float[Array, ""], Metrics]:
        """The ranking loss and the squares of the batch's vectors."""
        return mf_loss(params, step.batch, self.config.mf.regularization)

    def embed(self, state: Descent, inputs: Inputs) -> Vectors:
        """The vectors that rank."""
        return scoring_vectors(state.params)
