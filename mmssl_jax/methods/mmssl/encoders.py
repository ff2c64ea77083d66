"""Modality encoders: linear projection, dropout, propagation over the observed graph.

An item that lacks a modality has a zero feature of it before propagation, without the bias, and
does not count among its users' items of that modality. After propagation it has what its users'
other items say, like every item.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Bool, Float

from mmssl_jax.graph.bipartite import BipartiteGraph, Ends, Normalization, bipartite_graph
from mmssl_jax.graph.propagate import items_from_users, users_from_items
from mmssl_jax.methods.mmssl.fast.dropout import KeepMask, drop
from mmssl_jax.nodes import Nodes, item_numbers


class PartialModality(NamedTuple):
    """A modality that some items lack: who has it, and the weights of those that have it.

    `to_users` holds all training interactions; the degrees count those with items that have the
    modality alone, and the others weigh 0.
    """

    present: Bool[Array, " I"]
    to_users: jraph.GraphsTuple


ALL_PRESENT: Mapping[str, PartialModality] = MappingProxyType({})


def partial_modality(
    edges: np.ndarray, n_users: int, present: np.ndarray, normalization: Normalization
) -> PartialModality:
    """From the training interactions int `[E, 2]` (user, item) and bool `[I]`."""
    users, items = jnp.asarray(edges[:, 0], jnp.int32), jnp.asarray(edges[:, 1], jnp.int32)
    has_it = jnp.asarray(present)
    ends = Ends(users, n_users), Ends(items, len(present))
    graph = bipartite_graph(*ends, has_it[items], normalization)
    return PartialModality(has_it, graph.to_users)


class FeatureEncoder(nn.Module):
    """x_m = dropout(raw_m W_m + b_m) for each modality m of a dict, 0 for items that lack it."""

    dim: int
    dropout: float
    nodes: Nodes | None = None

    @nn.compact
    def __call__(
        self,
        features: dict[str, Float[Array, "I _F"]],
        deterministic: bool,
        partial: Mapping[str, PartialModality] = ALL_PRESENT,
    ) -> dict[str, Float[Array, "I D"]]:
        encoded = {}
        for index, (modality, raw) in enumerate(features.items()):
            dense = nn.Dense(self.dim, kernel_init=nn.initializers.xavier_uniform(), name=modality)
            items = item_numbers(raw.shape[0], self.nodes)
            keep = KeepMask(self.dropout, name=f"Dropout_{index}")(items, self.dim, deterministic)
            x = drop(dense(raw), keep, self.dropout)
            if modality in partial:
                x = jnp.where(partial[modality].present[:, None], x, 0.0)
            encoded[modality] = x
        return encoded


def propagate_features(
    graph: BipartiteGraph,
    encoded: dict[str, Float[Array, "I D"]],
    n_users: int,
    partial: Mapping[str, PartialModality] = ALL_PRESENT,
    nodes: Nodes | None = None,
) -> tuple[dict[str, Float[Array, "U D"]], dict[str, Float[Array, "I D"]]]:
    """f_u = sum_i w_ui x_i, then f_i = sum_u w_iu f_u; the w_ui of a modality in `partial` are its
    own. Returns the users' and the items' features per modality."""
    n_items = next(iter(encoded.values())).shape[0]
    of_users = {
        modality: users_from_items(
            partial[modality].to_users if modality in partial else graph.to_users, x, n_users, nodes
        )
        for modality, x in encoded.items()
    }
    of_items = {m: items_from_users(graph.to_items, x, n_items, nodes) for m, x in of_users.items()}
    return of_users, of_items
