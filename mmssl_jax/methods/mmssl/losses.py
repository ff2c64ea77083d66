"""The generator's total loss: the only place that knows the weights of its terms."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.losses.bpr import bpr_loss, embedding_l2
from mmssl_jax.losses.contrastive import contrastive_loss
from mmssl_jax.method import Metrics, Vectors
from mmssl_jax.methods.mmssl.draws import Share
from mmssl_jax.methods.mmssl.fast.row_blocks import map_row_blocks
from mmssl_jax.methods.mmssl.game.adversarial import adversarial_loss
from mmssl_jax.methods.mmssl.game.edge_likelihood import edge_likelihood_loss
from mmssl_jax.methods.mmssl.model import Embeddings
from mmssl_jax.methods.mmssl.state import Params, Setup
from mmssl_jax.methods.trained import of_batch
from mmssl_jax.nodes import Nodes, node_sum, own_rows
from mmssl_jax.sampling import Batch


def feature_l2(
    feature_user: dict[str, Float[Array, "U D"]],
    feature_item: dict[str, Float[Array, "I D"]],
    nodes: Nodes | None = None,
) -> Float[Array, ""]:
    """Sum of |f|^2 / 2 over all nodes and modalities, per item."""
    n_items = len(next(iter(feature_item.values()))) if nodes is None else nodes.all_items
    # Row by row: otherwise the squares of all entries would be kept until the backward pass.
    by_row = [
        map_row_blocks(_squared_norms, None, x)
        for x in (*feature_user.values(), *feature_item.values())
    ]
    total = node_sum(jnp.sum(jnp.stack([jnp.sum(squares) for squares in by_row])), nodes)
    return total / (2 * n_items)


def _squared_norms(_: None, x: Float[Array, "N D"]) -> Float[Array, " N"]:
    return jnp.sum(x * x, axis=-1)


def recommendation_losses(
    setup: Setup, embeddings: Embeddings, batch: Batch
) -> tuple[Float[Array, ""], Metrics]:
    """bpr + l2 + feature_l2 + sum over modalities of the contrastive loss, weighted.

    Returns: the weighted sum, and each term: the L2 terms with their weights, the others without.
    """
    config, nodes, users = setup.config.loss, setup.nodes, batch.users
    with jax.named_scope("bpr"):
        vectors = final = of_batch(Vectors(embeddings.user, embeddings.item), batch, nodes)
        parts = {"bpr": bpr_loss(*vectors)}
        if config.l2_target == "initial":
            initial = Vectors(embeddings.initial_user, embeddings.initial_item)
            vectors = of_batch(initial, batch, nodes)
        parts["embedding_l2"] = config.embedding_l2 * embedding_l2(*vectors)
        parts["feature_l2"] = config.feature_l2 * feature_l2(
            embeddings.feature_user, embeddings.feature_item, nodes
        )
    loss = parts["bpr"] + parts["embedding_l2"] + parts["feature_l2"]
    if config.contrastive:
        with jax.named_scope("contrastive"):
            for modality, ids in embeddings.id_user.items():
                term = contrastive_loss(
                    own_rows(ids, users, nodes),
                    final[0],
                    users,
                    config.temperature,
                    setup.axis,
                    config.mask_repeated,
                )
                parts[f"contrastive_{modality}"] = term
                loss = loss + config.contrastive * term
    return loss, parts


def generator_loss(
    setup: Setup, embeddings: Embeddings, critic: Params | None, share: Share
) -> tuple[Float[Array, ""], Metrics]:
    """All losses of the generator, the adversarial one against the critic as it stands now, or
    the edge likelihood in its place."""
    game = setup.config.game
    loss, parts = recommendation_losses(setup, embeddings, share.batch)
    if game.weight and game.kind == "edge_likelihood":
        with jax.named_scope("edge_likelihood"):
            parts["edge_likelihood"] = edge_likelihood_loss(
                embeddings.feature_user, embeddings.feature_item, share.batch, setup.nodes
            )
        loss = loss + game.weight * parts["edge_likelihood"]
    elif game.weight:
        with jax.named_scope("adversarial"):
            parts["adversarial"] = adversarial_loss(setup, critic, embeddings, share)
        loss = loss + game.weight * parts["adversarial"]
    return loss, {"generator_loss": loss, **parts}
