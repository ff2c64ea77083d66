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


# Similarities of a block of rows that exist at once.
SCORES_AT_ONCE = 2**23


def contrast_of_all(
    anchors: Float[Array, "N D"], keys: Float[Array, "N D"], temperature: float, axis: str | None
) -> Float[Array, ""]:
    """The form of `contrastive_loss`, each row another node, over rows that every device holds
    whole: mean over n of -log(f(a_n, k_n) / (sum_c f(a_n, k_c) + sum_(c != n) f(a_n, a_c))).

    Walks blocks of rows, whose similarities are computed once more for the gradient. Each device
    walks its part of them; the mean of the devices' results is the mean over all rows.
    """
    anchors, keys = unit_rows(anchors), unit_rows(keys)
    n = anchors.shape[0]
    n_devices = 1 if axis is None else jax.lax.axis_size(axis)
    share = -(-n // n_devices)  # the last device's may be shorter
    n_blocks = -(-share // max(1, SCORES_AT_ONCE // n))
    block = -(-share // n_blocks)

    @jax.checkpoint
    def sum_of_block(place: Int[Array, " B"]) -> Float[Array, ""]:
        row = axis_index(axis) * share + place
        is_row, row = (place < share) & (row < n), jnp.minimum(row, n - 1)
        mine, itself = anchors[row], row[:, None] == jnp.arange(n)[None, :]
        between = mine @ keys.T / temperature
        within = jnp.where(itself, -jnp.inf, mine @ anchors.T / temperature)
        positive = jnp.sum(mine * keys[row], axis=1) / temperature
        logsumexp = jax.nn.logsumexp
        normalizer = jnp.logaddexp(logsumexp(between, axis=1), logsumexp(within, axis=1))
        return jnp.sum(jnp.where(is_row, normalizer - positive, 0.0))

    places = jnp.arange(n_blocks * block, dtype=jnp.int32).reshape(n_blocks, block)
    return jnp.sum(jax.lax.map(sum_of_block, places)) * n_devices / n
