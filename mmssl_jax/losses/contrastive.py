"""Cross-modal contrastive loss over the users of a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmssl_jax.norms import unit_rows
from mmssl_jax.parallel import all_gather, axis_index


def contrastive_loss(
    anchors: Float[Array, "B D"],
    keys: Float[Array, "B D"],
    users: Int[Array, " B"],
    temperature: float,
    axis: str | None = None,
    mask_repeated: bool = True,
) -> Float[Array, ""]:
    """InfoNCE between a user's modality-aware ID embedding and its final embedding, one direction.

    With cosine similarity s and f = exp(s / tau), row b contributes
    -log(f(a_b, k_b) / (sum_c f(a_b, k_c) + sum_(c != b) f(a_b, a_c)) + 1e-8),
    c over the batch of all devices. With `mask_repeated` a user that stands in the batch more than
    once is no negative of itself. Returns the mean over this device's rows.
    """
    anchors, keys = unit_rows(anchors), unit_rows(keys)
    all_anchors, all_keys, all_users = all_gather((anchors, keys, users), axis)
    row = axis_index(axis) * users.shape[0] + jnp.arange(users.shape[0])
    is_self = row[:, None] == jnp.arange(all_users.shape[0])[None, :]
    same_user = users[:, None] == all_users[None, :] if mask_repeated else is_self
    between = jnp.where(same_user & ~is_self, -jnp.inf, anchors @ all_keys.T / temperature)
    within = jnp.where(same_user, -jnp.inf, anchors @ all_anchors.T / temperature)
    positive = jnp.sum(anchors * keys, axis=1) / temperature
    normalizer = jax.nn.logsumexp(jnp.concatenate([between, within], axis=1), axis=1)
    return -jnp.mean(jnp.log(jnp.exp(positive - normalizer) + 1e-8))
