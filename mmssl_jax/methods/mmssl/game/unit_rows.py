"""Generated rows, to which the critic's first kernel is applied without their being formed.

With E `[B, D]` user vectors, V `[I, D]` item vectors, A the batch's 0/1 training rows and
W `[I, H]` the kernel, a generated row is x = rownorm((e V^T) * (1 - a)), so that
x W = (e (V^T W) - sum over edges s_ui W_i) / rho,  rho^2 = e (V^T V) e^T - sum over edges s_ui^2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.graph.rows import BatchEdges
from mmssl_jax.methods.mmssl.fast.edge_chunks import edge_scores
from mmssl_jax.methods.mmssl.game.factored_rows import FactoredRows
from mmssl_jax.nodes import Nodes, node_sum, rows_of_all_items
from mmssl_jax.norms import inverse_norm


class UnitScores(NamedTuple):
    """Low-rank description of a batch's unit score rows: rownorm((E V^T) * (1 - A)).

    items: those of this device, where rows are spread.
    at_edges: E V^T at the batch's edges. masked: the same where observed pairs are masked, and then
    they are taken out of the rows; None where they are not.
    """

    edges: BatchEdges
    users: Float[Array, "B D"]
    items: Float[Array, "I D"]
    inverse_norm: Float[Array, " B"]
    at_edges: Float[Array, " S"]
    masked: Float[Array, " S"] | None

    def left_at_edges(self) -> Float[Array, " S"]:
        """The scores at the batch's edges, before the division by the norm: 0 where masked."""
        return self.at_edges if self.masked is None else self.at_edges - self.masked

    def rows(self) -> FactoredRows:
        """The unit score rows themselves, unformed."""
        taken_out = None if self.masked is None else -self.masked
        rows = FactoredRows(self.edges, ((self.users, self.items),), taken_out)
        return rows.scaled(self.inverse_norm)


def unit_scores(
    users: Float[Array, "B D"],
    items: Float[Array, "I D"],
    edges: BatchEdges,
    mask_observed: bool,
    nodes: Nodes | None = None,
) -> UnitScores:
    """Describes the rows; `mask_observed` zeroes the scores of training interactions.

    The norm of a masked row is a difference of two sums, which cancel for a user who has observed
    nearly everything: with float32, 7,000 items and 10 of them left it is off by 1e-3, with a
    tenth of them left by 1e-5, with half of them left by 1e-6.
    """
    at_edges = edge_scores(users, rows_of_all_items(items, nodes), edges)
    gram = node_sum(items.T @ items, nodes)
    squared = unmasked = jnp.sum((users @ gram) * users, axis=1)
    if mask_observed:
        squared = unmasked - jax.ops.segment_sum(at_edges**2, edges.row, edges.n_rows)
    # What is left of a row that is zero but for rounding must not be blown up to norm 1.
    squared = jnp.where(squared > 1e-6 * unmasked, squared, 0.0)
    masked = at_edges if mask_observed else None
    return UnitScores(edges, users, items, inverse_norm(squared), at_edges, masked)
