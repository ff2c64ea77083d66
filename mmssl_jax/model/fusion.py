"""Cross-modal multi-head attention over the modality-aware ID embeddings of one node."""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class CrossModalAttention(nn.Module):
    """Mixes the M modality embeddings e_m of each node into one vector.

    a_h(m, m') = softmax over m' of (e_m W_Q)_h . (e_m' W_K)_h / sqrt(D/H), the value is e_m' itself,
    heads are concatenated and projected by W_O `[H D, D]`; the result is the mean over queries m.
    With values on the queries' axis (the release) the weights of each value sum to one whatever Q
    and K are, so these two do not exist. One attention serves users and items.
    """

    dim: int
    heads: int
    values: Literal["keys", "queries"]

    @nn.compact
    def __call__(
        self, embeddings: Float[Array, "M N D"]
    ) -> tuple[Float[Array, "N D"], Float[Array, "M N"]]:
        """Returns the fused embeddings and the weight of each modality (mean over heads, queries)."""
        n_modalities, n_nodes, _ = embeddings.shape
        weights = self._weights(embeddings) / n_modalities
        mixed = jnp.sum(weights[..., None] * embeddings[:, :, None, :], axis=0)  # [N, H, D]
        # The mean over queries commutes with the output projection, so it was taken first.
        shape = (self.heads * self.dim, self.dim)
        w_output = self.param("output", nn.initializers.xavier_uniform(), shape)
        fused = mixed.reshape(n_nodes, self.heads * self.dim) @ w_output
        return fused, jax.lax.stop_gradient(weights.mean(axis=-1))

    def _weights(self, embeddings: Float[Array, "M N D"]) -> Float[Array, "M N H"]:
        """Weight of each value, summed over queries."""
        n_modalities, n_nodes, _ = embeddings.shape
        if self.values == "queries":
            return jnp.ones((n_modalities, n_nodes, self.heads))
        initializer = nn.initializers.xavier_uniform()
        by_head = (n_modalities, n_nodes, self.heads, self.dim // self.heads)
        w_query = self.param("query", initializer, (self.dim, self.dim))
        w_key = self.param("key", initializer, (self.dim, self.dim))
        queries = (embeddings @ w_query).reshape(by_head)
        keys = (embeddings @ w_key).reshape(by_head)
        products = jnp.sum(queries[:, None] * keys[None, :], axis=-1)  # [M queries, M keys, N, H]
        return jax.nn.softmax(products / math.sqrt(self.dim / self.heads), axis=1).sum(axis=0)
