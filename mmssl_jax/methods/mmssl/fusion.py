"""Cross-modal multi-head attention over the modality-aware ID embeddings of one node."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.methods.mmssl.fast.row_blocks import map_row_blocks
from mmssl_jax.norms import unit_rows

Values = Literal["keys", "queries"]


class CrossModalAttention(nn.Module):
    """Mixes the M modality embeddings e_m of each node into one vector.

    a_h(m, m') = softmax over m' of (e_m W_Q)_h . (e_m' W_K)_h / sqrt(D/H), the value is e_m'
    itself, heads are concatenated and projected by W_O `[H D, D]`; the result is the mean over
    queries m. With values on the queries' axis (the release) the weights of each value sum to
    one whatever Q and K are, so these two do not exist. One attention serves users and items.
    """

    dim: int
    heads: int
    values: Values

    @nn.compact
    def __call__(
        self, embeddings: Sequence[Float[Array, "N D"]]
    ) -> tuple[Float[Array, "N D"], Float[Array, "M N"]]:
        """Returns the unit fused embeddings, and each modality's weight (mean over heads, queries).

        Args:
          embeddings: one array per modality. A stack of them would cost the backward pass a stack
            of zeros for every use of one.
        """
        names = ("output",) if self.values == "queries" else ("output", "query", "key")
        heights = {"output": self.heads * self.dim}
        params = {
            name: self.param(
                name,
                nn.initializers.xavier_uniform(),
                (heights.get(name, self.dim), self.dim),
            )
            for name in names
        }
        attend = functools.partial(_fuse, heads=self.heads, values=self.values)
        fused, weights = map_row_blocks(attend, params, tuple(embeddings))
        return fused, jax.lax.stop_gradient(weights.T)


def _fuse(
    params: Mapping[str, Array],
    embeddings: Sequence[Float[Array, "N D"]],
    heads: int,
    values: Values,
) -> tuple[Float[Array, "N D"], Float[Array, "N M"]]:
    """The attention of `CrossModalAttention` with its parameters `output`, `query` and `key`."""
    weights = _mean_weights(params, embeddings, heads, values)
    # The mean over queries commutes with the output projection, so it was taken first; and a
    # projection per head needs no concatenation of the heads.
    fused = functools.reduce(
        jnp.add,
        (
            _sum_of_weighted([w[head] for w in weights], embeddings) @ projection
            for head, projection in enumerate(jnp.split(params["output"], heads))
        ),
    )
    return unit_rows(fused), jnp.stack([w.mean(axis=0) for w in weights], axis=1)


def _mean_weights(
    params: Mapping[str, Array], embeddings: Sequence[Float[Array, "N D"]], heads: int, values: str
) -> list[Float[Array, "H N"]]:
    """Weight of each value, mean over queries.

    Modalities are lists and nodes the last axis: stacks of narrow arrays are slow on a CPU.
    """
    n_modalities, n_nodes = len(embeddings), embeddings[0].shape[0]
    if values == "queries":
        return [jnp.full((heads, n_nodes), 1 / n_modalities)] * n_modalities
    keys = [embedding @ params["key"] for embedding in embeddings]
    sums = [jnp.zeros((heads, n_nodes))] * n_modalities
    for query in (embedding @ params["query"] for embedding in embeddings):
        logits = [head_products(query, key, heads) for key in keys]
        normalizer = functools.reduce(jnp.logaddexp, logits)
        sums = [
            total + jnp.exp(logit - normalizer) for total, logit in zip(sums, logits, strict=True)
        ]
    return [total / n_modalities for total in sums]


def head_products(
    queries: Float[Array, "N D"], keys: Float[Array, "N D"], heads: int
) -> Float[Array, "H N"]:
    """(q_h . k_h) / sqrt(D / H) for each head h, whose channels are D / H neighbours."""
    width = queries.shape[1] // heads
    sum_by_head = jnp.repeat(jnp.eye(heads), width, axis=1)  # [H, D]
    return jnp.einsum("hd,nd->hn", sum_by_head, queries * keys) / math.sqrt(width)


def _sum_of_weighted(
    weights: Sequence[Float[Array, " N"]], vectors: Sequence[Float[Array, "N D"]]
) -> Float[Array, "N D"]:
    """Each row's weighted sum over the arrays."""
    weighted = (w[:, None] * x for w, x in zip(weights, vectors, strict=True))
    return functools.reduce(jnp.add, weighted)
