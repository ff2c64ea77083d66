"""Softmax over a positive item and a sample of others, which a whole batch shares."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.norms import unit_rows

Similarity = Literal["cosine", "inner"]


def sampled_softmax(
    users: Float[Array, "B D"],
    positives: Float[Array, "B D"],
    negatives: Float[Array, "N D"],
    temperature: float,
    similarity: Similarity = "cosine",
) -> Float[Array, ""]:
    """Mean over rows b of -log e^(s(u_b, i_b)/t) / (e^(s(u_b, i_b)/t) + sum_n e^(s(u_b, j_n)/t)).

    s is the cosine, or the inner product. A negative may be a training item of a user, and is one
    for few; it is not looked for.
    """
    if similarity == "cosine":
        users, positives, negatives = map(unit_rows, (users, positives, negatives))
    positive = jnp.sum(users * positives, axis=1, keepdims=True)
    scores = jnp.concatenate([positive, users @ negatives.T], axis=1) / temperature
    return jnp.mean(jax.nn.logsumexp(scores, axis=1) - scores[:, 0])
