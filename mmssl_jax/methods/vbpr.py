"""VBPR: He and McAuley, "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback", AAAI
2016 (arXiv 1510.01784), with any number of modalities m in place of one.

With vectors p_u, theta_um of users and q_i of items, matrices E_m and an item's features f_im:

    s_ui = p_u . q_i + sum_m theta_um . (E_m f_im) + [b_i + sum_m beta_m . f_im]
         = x_u . y_i,  x_u = [p_u, theta_u1, .., 1],  y_i = [q_i, E_1 f_i1, .., b_i + sum_m ..]
    loss = mean over (u, i, j) of -log sigmoid(s_ui - s_uj)
           + regularization * (|X| + |Y_i| + |Y_j|) / B

X, Y_i, Y_j are the vectors of a batch of B triples, without the 1, and |X| is the square root of
the sum of squares: the regularisation of public benchmarks, where the paper has squares of the
parameters. The numbers in brackets are left out unless `vbpr.biases`, as they are there. f_im are
the raw features, as there, or standardised by column; 0 for an item that lacks m.

A new item known by features has its content and no part of its own: y = [0, E_1 f_1, .., sum_m
beta_m . f_m]. A new user known by items N takes the direction of the first step that the ranking
loss makes from zero, where negatives are any items: the mean of y over N less that over all items,
as long as a user's vector is on average.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key
from jsonargparse.typing import NonNegativeFloat, PositiveInt

from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.bipartite import directed_graph
from mmssl_jax.graph.item_graph import centred, item_features, item_presence
from mmssl_jax.graph.propagate import propagate
from mmssl_jax.graph.rows import BatchEdges, InteractionRows, interaction_rows
from mmssl_jax.losses.bpr import bpr_loss, frobenius_norm
from mmssl_jax.method import Inductive, Metrics, Vectors
from mmssl_jax.methods.trained import BenchmarkConfig, Step, Trained
from mmssl_jax.norms import inverse_norm, unit_rows
from mmssl_jax.optimizers import Descent

Features = Mapping[str, Float[Array, "N _F"]]


@dataclass(frozen=True)
class VBPRSettings:
    """Vectors, features and regularisation."""

    dim: PositiveInt = 64
    """Width of the vectors of users and items that features have no part in."""
    content_dim: PositiveInt = 64
    """Width that the features of each modality are projected to."""
    standardised: bool = False
    """Whether features are first shifted and scaled to mean 0 and deviation 1 over the items."""
    biases: bool = False
    """Whether every item has a bias, and features add to it."""
    regularization: NonNegativeFloat = 1.0
    """Weight of the norms of a batch's vectors, per triple."""


@dataclass(frozen=True)
class VBPRConfig(BenchmarkConfig):
    """All settings of VBPR."""

    method: str = "vbpr"
    """Method to train. Each has its own settings: --method NAME --help."""
    vbpr: VBPRSettings = field(default_factory=VBPRSettings)


class Scaling(NamedTuple):
    """f = (raw - shift) * scale, by column."""

    shift: Float[Array, " F"]
    scale: Float[Array, " F"]


class Inputs(NamedTuple):
    """The training interactions by user, features f, and how these were made of the raw ones."""

    rows: InteractionRows
    features: dict[str, Float[Array, "I _F"]]
    scalings: dict[str, Scaling]


class Params(NamedTuple):
    """[p_u, theta_u1, ..]; q_i, and b_i behind it with biases; E_m', and beta_m as a last column.

    W = D + M C and b = 1 with biases, else 0.
    """

    users: Float[Array, "U W"]
    items: Float[Array, "I D_plus_b"]
    content: dict[str, Float[Array, "_F C_plus_b"]]


class Knowledge(NamedTuple):
    """What vectors of new users and items are made from.

    items: y. shift, scale: as in `Scaling`. user_norm: the mean length of x over the users with
    training interactions.
    """

    items: Float[Array, "I W_plus_b"]
    content: dict[str, Float[Array, "_F C_plus_b"]]
    shift: dict[str, Float[Array, " _F"]]
    scale: dict[str, Float[Array, " _F"]]
    user_norm: Float[Array, ""]


def scaling_of(raw: Float[Array, "I F"], present: Bool[Array, " I"], standardised: bool) -> Scaling:
    """From the items that are present; a column that is constant over them becomes 0."""
    if not standardised:
        return Scaling(jnp.zeros(raw.shape[1]), jnp.ones(raw.shape[1]))
    rows, mean = centred(raw, present)
    variance = jnp.sum(rows * rows, axis=0) / jnp.maximum(jnp.sum(present), 1)
    # Rounding leaves a constant a little off its mean.
    varies = variance > 1e-10 * (mean * mean + variance)
    return Scaling(mean, inverse_norm(jnp.where(varies, variance, 0.0)))


def scaled(
    raw: Float[Array, "N F"], present: Bool[Array, " N"], shift: Array, scale: Array
) -> Float[Array, "N F"]:
    """f, 0 where a row is not present."""
    return jnp.where(present[:, None], (raw - shift[None, :]) * scale[None, :], 0.0)


def item_rows(
    own: Float[Array, "N D_plus_b"],
    content: Mapping[str, Float[Array, "_F C_plus_b"]],
    features: Features,
    settings: VBPRSettings,
) -> Float[Array, "N W_plus_b"]:
    """y of the items of these own parts and features f."""
    dim, width = settings.dim, settings.content_dim
    projected = [x @ content[m] for m, x in features.items()]
    bias = own[:, dim:] + sum(x[:, width:] for x in projected)
    return jnp.concatenate([own[:, :dim], *(x[:, :width] for x in projected), bias], axis=1)


def scoring_users(users: Float[Array, "N W"], settings: VBPRSettings) -> Float[Array, "N W_plus_b"]:
    """x: the users' vectors, and a 1 where items have a bias."""
    return jnp.pad(users, ((0, 0), (0, settings.biases)), constant_values=1.0)


def knowledge_of(method: "VBPR", state: Descent, inputs: Inputs) -> Knowledge:
    """The trained items and projections."""
    params = state.params
    trained = jnp.diff(inputs.rows.start) > 0
    lengths = jnp.where(trained, jnp.linalg.norm(params.users, axis=1), 0.0)
    mean_length = jnp.sum(lengths) / jnp.maximum(jnp.sum(trained), 1)
    shift = {m: each.shift for m, each in inputs.scalings.items()}
    scale = {m: each.scale for m, each in inputs.scalings.items()}
    items = method.embed(state, inputs).items
    return Knowledge(items, params.content, shift, scale, mean_length)


def user_vectors(config: VBPRConfig, known: Knowledge, rows: BatchEdges) -> Float[Array, "B _W"]:
    """x of users whose items are `rows`; a user without items gets zeros."""
    settings = config.vbpr
    weights = jnp.where(rows.mask, 1.0 / jnp.maximum(rows.degree, 1)[rows.row], 0.0)
    graph = directed_graph(rows.item, rows.row, weights, len(known.items))
    mean = propagate(graph, known.items, rows.n_rows)
    pull = mean - jnp.mean(known.items, axis=0)[None, :]
    pull = pull[:, : pull.shape[1] - settings.biases]
    users = scoring_users(known.user_norm * unit_rows(pull), settings)
    return jnp.where(rows.degree[:, None] > 0, users, 0.0)


def item_vectors(
    config: VBPRConfig,
    known: Knowledge,
    features: Features,
    present: Mapping[str, Bool[Array, " B"]],
) -> Float[Array, "B _W"]:
    """y of items known by raw features alone."""
    settings = config.vbpr
    content = {
        m: scaled(raw, present[m], known.shift[m], known.scale[m]) for m, raw in features.items()
    }
    own = jnp.zeros((len(next(iter(content.values()))), settings.dim + settings.biases))
    return item_rows(own, known.content, content, settings)


@dataclass(frozen=True)
class VBPR(Trained):
    """VBPR behind the contract of `mmssl_jax/method.py`."""

    TITLE: ClassVar[str] = "VBPR"
    CONFIG: ClassVar[type[Config]] = VBPRConfig
    SPACE: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "optim.lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "vbpr.standardised": {"choices": [False, True]},
        "vbpr.biases": {"choices": [False, True]},
        "vbpr.regularization": {"low": 1e-3, "high": 3.0, "log": True},
    }
    INDUCTIVE: ClassVar[Inductive | None] = Inductive(
        Knowledge, knowledge_of, user_vectors, item_vectors
    )
    NEEDS_FEATURES: ClassVar[bool] = True

    def inputs(self, dataset: Dataset) -> Inputs:
        """The training interactions by user, and the features."""
        rows = interaction_rows(dataset.train, dataset.n_users, dataset.n_items)
        raw, present = item_features(dataset), item_presence(dataset)
        scalings = {
            m: scaling_of(x, present[m], self.config.vbpr.standardised) for m, x in raw.items()
        }
        return Inputs(
            rows, {m: scaled(x, present[m], *scalings[m]) for m, x in raw.items()}, scalings
        )

    def parameters(self, key: Key[Array, ""], inputs: Inputs) -> Params:
        """Xavier's vectors and projections, and no bias yet."""
        settings = self.config.vbpr
        user_key, item_key, content_key = jax.random.split(key, 3)
        uniform, normal = nn.initializers.xavier_uniform(), nn.initializers.xavier_normal()
        width = settings.dim + len(inputs.features) * settings.content_dim
        items = uniform(item_key, (self.n_items, settings.dim))
        keys = jax.random.split(content_key, len(inputs.features))
        content = {
            m: normal(k, (x.shape[1], settings.content_dim))
            for k, (m, x) in zip(keys, inputs.features.items(), strict=True)
        }
        items, content = jax.tree.map(
            lambda x: jnp.pad(x, ((0, 0), (0, settings.biases))), (items, content)
        )
        return Params(uniform(user_key, (self.n_users, width)), items, content)

    def loss(self, params: Params, step: Step, inputs: Inputs) -> tuple[Float[Array, ""], Metrics]:
        """The ranking loss and the norms of the batch's vectors."""
        settings, batch = self.config.vbpr, step.batch
        users = params.users[batch.users]
        positives, negatives = (
            self._item_rows(params, items, inputs) for items in (batch.positives, batch.negatives)
        )
        bpr = bpr_loss(scoring_users(users, settings), positives, negatives)
        norms = sum(frobenius_norm(x, self.axis) for x in (users, positives, negatives))
        total = bpr + settings.regularization * norms / self.config.sampling.batch_size
        return total, {"bpr": bpr, "loss": total}

    def embed(self, state: Descent, inputs: Inputs) -> Vectors:
        """The vectors that rank."""
        settings, params = self.config.vbpr, state.params
        items = item_rows(params.items, params.content, inputs.features, settings)
        return Vectors(scoring_users(params.users, settings), items)

    def _item_rows(self, params: Params, items: Array, inputs: Inputs) -> Float[Array, "B _W"]:
        features = {m: x[items] for m, x in inputs.features.items()}
        return item_rows(params.items[items], params.content, features, self.config.vbpr)
