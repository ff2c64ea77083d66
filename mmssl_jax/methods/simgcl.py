"""SimGCL: Yu et al., "Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for
Recommendation", SIGIR 2022 (arXiv 2112.08679).

With A the symmetrically normalised graph of the training interactions and E^(0) the ID embeddings
of users and items, which alone are parameters:

    E^(l) = A E^(l-1)                       E = (E^(1) + .. + E^(L)) / L, without E^(0)
    Z^(l) = A Z^(l-1) + eps sign(A Z^(l-1)) * unit(x)    x uniform in [0, 1), anew for each node
    Z = (Z^(1) + .. + Z^(L)) / L                         and layer; Z^(0) = E^(0)
    score of u and i: e_u . e_i
    loss = mean over (u, i, j) of -log sigmoid(e_u . e_i - e_u . e_j)
           + contrast * (InfoNCE of the batch's users + InfoNCE of its positive items)
           + regularization * mean over (u, i, j) of (|e_u^(0)|^2 + |e_i^(0)|^2 + |e_j^(0)|^2) / 2

InfoNCE is between two draws Z' and Z'' of a step, over the distinct nodes of the batch
(`losses/info_nce.py`). The noise turns a vector without leaving its orthant. A node without
training interactions has a vector of zeros.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from jsonargparse.typing import NonNegativeFloat, PositiveFloat, PositiveInt

from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.bipartite import BipartiteGraph, observed_graph
from mmssl_jax.graph.propagate import propagate
from mmssl_jax.graph.rows import interaction_rows
from mmssl_jax.losses.bpr import bpr_loss, embedding_l2
from mmssl_jax.losses.info_nce import info_nce
from mmssl_jax.method import Metrics, Vectors
from mmssl_jax.methods.lightgcn import Inputs, Params, xavier_tables
from mmssl_jax.methods.trained import BenchmarkConfig, Step, Trained
from mmssl_jax.norms import unit_rows
from mmssl_jax.optimizers import Descent


@dataclass(frozen=True)
class SimGCLSettings:
    """Embeddings, propagation, noise and the weights of the loss."""

    dim: PositiveInt = 64
    """Width of every embedding."""
    layers: PositiveInt = 2
    """Propagation rounds L."""
    noise: NonNegativeFloat = 0.1
    """Length eps of the noise that is added to a node's vector after each round."""
    contrast: NonNegativeFloat = 0.5
    """Weight of the contrast between two noisy passes."""
    temperature: PositiveFloat = 0.2
    """Temperature of the contrast."""
    regularization: NonNegativeFloat = 1e-4
    """Weight of half the squares of a batch's initial embeddings, per triple."""


@dataclass(frozen=True)
class SimGCLConfig(BenchmarkConfig):
    """All settings of SimGCL."""

    method: str = "simgcl"
    """Method to train. Each has its own settings: --method NAME --help."""
    simgcl: SimGCLSettings = field(default_factory=SimGCLSettings)


def noise_like(key: Key[Array, ""], x: Float[Array, "N D"], length: float) -> Float[Array, "N D"]:
    """Rows of this length at random in the orthants of x's rows; 0 where x is 0."""
    return length * jnp.sign(x) * unit_rows(jax.random.uniform(key, x.shape, x.dtype))


def mean_of_rounds(
    graph: BipartiteGraph, params: Params, settings: SimGCLSettings, key: Key[Array, ""] | None
) -> Vectors:
    """E or, with a key, Z: the mean of the embeddings after each round, without or with noise."""
    users, items = params
    total_users, total_items = jnp.zeros_like(users), jnp.zeros_like(items)
    for layer in range(settings.layers):
        users, items = (
            propagate(graph.to_users, items, users.shape[0]),
            propagate(graph.to_items, users, items.shape[0]),
        )
        if key is not None:
            user_key, item_key = jax.random.split(jax.random.fold_in(key, layer))
            users = users + noise_like(user_key, users, settings.noise)
            items = items + noise_like(item_key, items, settings.noise)
        total_users, total_items = total_users + users, total_items + items
    return Vectors(total_users / settings.layers, total_items / settings.layers)


@dataclass(frozen=True)
class SimGCL(Trained):
    """SimGCL behind the contract of `mmssl_jax/method.py`."""

    TITLE: ClassVar[str] = "SimGCL"
    CONFIG: ClassVar[type[Config]] = SimGCLConfig
    SPACE: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "optim.lr": {"low": 3e-4, "high": 1e-2, "log": True},
        "simgcl.layers": {"low": 1, "high": 3},
        "simgcl.contrast": {"low": 1e-3, "high": 1.0, "log": True},
        "simgcl.temperature": {"low": 0.1, "high": 0.5},
    }
    WATCHED: ClassVar[tuple[str, ...]] = ("bpr", "contrast", "loss")

    def inputs(self, dataset: Dataset) -> Inputs:
        """The symmetrically normalised graph, and the training interactions by user."""
        size = dataset.n_users, dataset.n_items
        graph = observed_graph(dataset.train, *size, "symmetric")
        return Inputs(graph, interaction_rows(dataset.train, *size))

    def parameters(self, key: Key[Array, ""], inputs: Inputs) -> Params:
        """Xavier-uniform embeddings."""
        return Params(*xavier_tables(key, (self.n_users, self.n_items), self.config.simgcl.dim))

    def loss(self, params: Params, step: Step, inputs: Inputs) -> tuple[Float[Array, ""], Metrics]:
        """The ranking loss, the contrast and the squares of the initial embeddings.

        The noise hangs on the step's key alone, which is equal on all devices.
        """
        settings, (users, positives, negatives) = self.config.simgcl, step.batch
        final = mean_of_rounds(inputs.graph, params, settings, None)
        one, other = (
            mean_of_rounds(inputs.graph, params, settings, key)
            for key in jax.random.split(step.key)
        )
        bpr = bpr_loss(final.users[users], final.items[positives], final.items[negatives])
        contrast = sum(
            info_nce(x[nodes], y[nodes], nodes, settings.temperature, self.axis)
            for x, y, nodes in zip(one, other, (users, positives), strict=True)
        )
        initial = params.users[users], params.items[positives], params.items[negatives]
        total = bpr + settings.contrast * contrast
        total = total + settings.regularization * embedding_l2(*initial)
        return total, {"bpr": bpr, "contrast": contrast, "loss": total}

    def embed(self, state: Descent, inputs: Inputs) -> Vectors:
        """The final embeddings, without noise."""
        return mean_of_rounds(inputs.graph, state.params, self.config.simgcl, None)
