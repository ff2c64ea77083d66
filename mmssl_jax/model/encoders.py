"""Modality encoders: linear projection, dropout, propagation over the observed graph."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.graph.bipartite import BipartiteGraph
from mmssl_jax.graph.propagate import propagate
from mmssl_jax.model.dropout import Dropout


class FeatureEncoder(nn.Module):
    """x_m = dropout(raw_m W_m + b_m) for each modality m of a dict."""

    dim: int
    dropout: float

    @nn.compact
    def __call__(
        self, features: dict[str, Float[Array, "I _F"]], deterministic: bool
    ) -> dict[str, Float[Array, "I D"]]:
        encoded = {}
        for modality, raw in features.items():
            dense = nn.Dense(self.dim, kernel_init=nn.initializers.xavier_uniform(), name=modality)
            encoded[modality] = Dropout(self.dropout)(dense(raw), deterministic=deterministic)
        return encoded


def propagate_features(
    graph: BipartiteGraph, encoded: dict[str, Float[Array, "I D"]], n_users: int
) -> tuple[dict[str, Float[Array, "U D"]], dict[str, Float[Array, "I D"]]]:
    """f_u = sum_i w_ui x_i, then f_i = sum_u w_iu f_u; all modalities in one pass each way.

    Returns the users' and the items' features per modality.
    """
    modalities = tuple(encoded)
    side_by_side = jnp.concatenate([encoded[modality] for modality in modalities], axis=1)
    of_users = propagate(graph.to_users, side_by_side, n_users)
    of_items = propagate(graph.to_items, of_users, side_by_side.shape[0])
    split_users = jnp.split(of_users, len(modalities), axis=1)
    split_items = jnp.split(of_items, len(modalities), axis=1)
    return (
        dict(zip(modalities, split_users, strict=True)),
        dict(zip(modalities, split_items, strict=True)),
    )
