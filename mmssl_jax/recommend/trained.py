"""What a trained model knows, in the parts that vectors of new users and items are made from."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmssl_jax.compilation import compiler_options
from mmssl_jax.config import Config, ModelConfig
from mmssl_jax.graph.bipartite import Normalization
from mmssl_jax.model.encoders import FeatureEncoder
from mmssl_jax.model.fusion import CrossModalAttention
from mmssl_jax.model.mmssl import Embeddings, id_layers
from mmssl_jax.parallel import in_float32, replicate
from mmssl_jax.training.problem import Problem
from mmssl_jax.training.state import Inputs, TrainState
from mmssl_jax.training.step import forward

# Of modalities that no item lacks.
EVERYONE: Mapping[str, Array] = MappingProxyType({})


class Trained(NamedTuple):
    """A model in evaluation mode: its parameters and embeddings, and the training degrees.

    Dicts are keyed by modality. `encoded` are the items' features x_m before propagation, 0 for
    items that lack m; `present` says who has m, for the modalities that some items lack.
    `item_layers` and `user_layers` are what users and items gather in each round of the light GCN.
    """

    generator: dict
    embeddings: Embeddings
    encoded: dict[str, Float[Array, "I D"]]
    present: dict[str, Bool[Array, " I"]]
    item_layers: Float[Array, "L I D"]
    user_layers: Float[Array, "L U D"]
    item_degree: Float[Array, " I"]
    user_degree: Float[Array, " U"]


def trained_model(problem: Problem, state: TrainState) -> Trained:
    """Runs a restored model once; the result lies on the first of the problem's devices."""
    config, sizes = problem.config, problem.sizes

    @functools.partial(jax.jit, compiler_options=compiler_options(problem.devices[0].platform))
    @in_float32
    def run(generator: dict, learned: dict, inputs: Inputs) -> tuple[Embeddings, Array, Array]:
        embeddings = forward(generator, learned, inputs, config, sizes, None)
        layers = id_layers(
            inputs.observed.ids,
            first_layer(generator, embeddings.id_user, config.model, generator["user_embedding"]),
            first_layer(generator, embeddings.id_item, config.model, generator["item_embedding"]),
            config.model,
        )
        users, items = (jnp.stack(side) for side in zip(*layers, strict=True))
        first = 1 if config.model.propagation_order == "users_first" else 0
        n_rounds = config.model.gnn_layers
        return embeddings, items[:n_rounds], users[first : first + n_rounds]

    only = problem.devices[:1]
    generator, learned, inputs = replicate((state.generator, state.learned, problem.inputs), only)
    embeddings, item_layers, user_layers = run(generator, learned, inputs)
    train = problem.dataset.train.T
    user_degree, item_degree = (
        np.bincount(ids, minlength=size).astype(np.float32)
        for ids, size in zip(train, (sizes.n_users, sizes.n_items), strict=True)
    )
    present = {m: partial.present for m, partial in inputs.observed.partial.items()}
    return Trained(
        generator=generator,
        embeddings=embeddings,
        encoded=encode(generator, inputs.features, config, present),
        present=present,
        item_layers=item_layers,
        user_layers=user_layers,
        item_degree=replicate(item_degree, only),
        user_degree=replicate(user_degree, only),
    )


def encode(
    generator: dict,
    features: dict[str, Float[Array, "N _F"]],
    config: Config,
    present: Mapping[str, Bool[Array, " N"]] = EVERYONE,
) -> dict[str, Float[Array, "N D"]]:
    """x_m = raw_m W_m + b_m of any items, without dropout; 0, without the bias, where an item lacks
    m. present: who has m, for modalities that some lack."""
    encoder = FeatureEncoder(config.model.dim, config.model.dropout)
    with jax.default_matmul_precision("float32"):
        encoded: dict[str, Float[Array, "N D"]] = encoder.apply(  # type: ignore[assignment]
            {"params": generator["encoder"]}, features, True
        )
    return {
        m: jnp.where(present[m][:, None], x, 0.0) if m in present else x for m, x in encoded.items()
    }


def first_layer(
    generator: dict,
    by_modality: dict[str, Float[Array, "N D"]],
    config: ModelConfig,
    ids: Float[Array, "N D"] | float = 0.0,
) -> Float[Array, "N D"]:
    """What the light GCN starts from: ID embedding + id_fusion * the unit of the fused ones.

    by_modality: sums of ID embeddings over each modality's learned edges. ids: the nodes' own ID
    embeddings; a node that was not trained has none.
    """
    attention = CrossModalAttention(config.dim, config.heads, config.attention_values)
    vectors = list(by_modality.values())
    fused, _ = attention.apply({"params": generator["attention"]}, vectors, unit=True)
    return ids + config.id_fusion * fused


def edge_weights_into(
    degree: Float[Array, "*edges"],
    neighbour_degree: Float[Array, "*edges"],
    normalization: Normalization,
) -> Float[Array, "*edges"]:
    """Weights of edges into new nodes of `degree` neighbours, whose own degrees are as trained.

    A neighbour without training interactions counts one, the new edge. See
    `bipartite.edge_weights`.
    """
    if normalization == "symmetric":
        degree = degree * jnp.maximum(neighbour_degree, 1.0)
    return degree ** (-1.0 if normalization == "mean" else -0.5)
