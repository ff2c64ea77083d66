"""InfoNCE between two views of the nodes of a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmssl_jax.norms import unit_rows
from mmssl_jax.parallel import all_gather, pmean


def info_nce(
    anchors: Float[Array, "B D"],
    keys: Float[Array, "B D"],
    nodes: Int[Array, " B"],
    temperature: float,
    axis: str | None = None,
) -> Float[Array, ""]:
    """Mean over the distinct nodes n of -log(f(a_n, k_n) / sum_c f(a_n, k_c)).

    f = exp(cosine / temperature), and c runs over the distinct nodes of the batch of all devices, n
    among them. A node may stand in the batch more than once, with equal vectors each time, and
    counts once: each of its m rows weighs 1 / m, as anchor and as key. So shapes stay what they
    are, and devices have equal work. The mean of the devices' results is the mean over all nodes.
    """
    anchors, keys = unit_rows(anchors), unit_rows(keys)
    all_keys, all_nodes = all_gather((keys, nodes), axis)
    copies = jnp.sum(nodes[:, None] == all_nodes[None, :], axis=1).astype(keys.dtype)
    all_copies = all_gather(copies, axis)
    scores = anchors @ all_keys.T / temperature - jnp.log(all_copies)[None, :]
    positive = jnp.sum(anchors * keys, axis=1) / temperature
    losses = jax.nn.logsumexp(scores, axis=1) - positive
    return jnp.sum(losses / copies) / pmean(jnp.sum(1.0 / copies), axis)
