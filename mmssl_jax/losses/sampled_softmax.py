"""Softmax over a positive item and a sample of others, which a whole batch shares."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def sampled_softmax(
    users: Float[Array, "B D"],
    positives: Float[Array, "B D"],
    negatives: Float[Array, "N D"],
    temperature: float,
) -> Float[Array, ""]:
    """Mean over rows b of -log e^(u_b.i_b/t) / (e^(u_b.i_b/t) + sum_n e^(u_b.j_n/t)).

    For the cosine give unit rows. A negative may be a training item of a user, and is one for few;
    it is not looked for.
    """
    positive = jnp.sum(users * positives, axis=1, keepdims=True)
    scores = jnp.concatenate([positive, users @ negatives.T], axis=1) / temperature
    return jnp.mean(jax.nn.logsumexp(scores, axis=1) - scores[:, 0])
