"""The generator's total loss: the only place that knows the weights of its terms."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmssl_jax.losses.bpr import bpr_loss, embedding_l2
from mmssl_jax.losses.contrastive import contrastive_loss
from mmssl_jax.method import Metrics
from mmssl_jax.methods.mmssl.draws import Share
from mmssl_jax.methods.mmssl.fast.row_blocks import map_row_blocks
from mmssl_jax.methods.mmssl.game.adversarial import adversarial_loss
from mmssl_jax.methods.mmssl.game.edge_likelihood import edge_likelihood_loss
from mmssl_jax.methods.mmssl.model import Embeddings
from mmssl_jax.methods.mmssl.state import Params, Setup
from mmssl_jax.sampling import Batch


def feature_l2(
    feature_user: dict[str, Float[Array, "U D"]], feature_item: dict[str, Float[Array, "I D"]]
) -> Float[Array, ""]:
    """Sum of |f|^2 / 2 over all nodes and modalities, per item."""
    n_items = next(iter(feature_item.values())).shape[0]
    # Row by row: otherwise the squares of all entries would be kept until the backward pass.
    by_row = [
        map_row_blocks(_squared_norms, None, x)
        for x in (*feature_user.values(), *feature_item.values())
    ]
    return jnp.sum(jnp.stack([jnp.sum(squares) for squares in by_row])) / (2 * n_items)


def _squared_norms(_: None, x: Float[Array, "N D"]) -> Float[Array, " N"]:
    return jnp.sum(x * x, axis=-1)


def recommendation_losses(
    setup: Setup, embeddings: Embeddings, batch: Batch
) -> tuple[Float[Array, ""], Metrics]:
    """bpr + l2 + feature_l2 + sum over modalities of the contrastive loss, weighted.

    Returns: the weighted sum, and each term: the L2 terms with their weights, the others without.
    """
    config, (users, positives, negatives) = setup.config.loss, batch
    with jax.named_scope("bpr"):
        vectors = embeddings.user[users], embeddings.item[positives], embeddings.item[negatives]
        parts = {"bpr": bpr_loss(*vectors)}
        if config.l2_target == "initial":
            of_users, of_items = embeddings.initial_user, embeddings.initial_item
            vectors = of_users[users], of_items[positives], of_items[negatives]
        parts["embedding_l2"] = config.embedding_l2 * embedding_l2(*vectors)
        parts["feature_l2"] = config.feature_l2 * feature_l2(
            embeddings.feature_user, embeddings.feature_item
        )
    loss = parts["bpr"] + parts["embedding_l2"] + parts["feature_l2"]
    if config.contrastive:
        with jax.named_scope("contrastive"):
            keys = embeddings.user[users]
            for modality, ids in embeddings.id_user.items():
                term = contrastive_loss(
                    ids[users], keys, users, config.temperature, setup.axis, config.mask_repeated
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
                embeddings.feature_user, embeddings.feature_item, share.batch
            )
        loss = loss + game.weight * parts["edge_likelihood"]
    elif game.weight:
        with jax.named_scope("adversarial"):
            parts["adversarial"] = adversarial_loss(setup, critic, embeddings, share)
        loss = loss + game.weight * parts["adversarial"]
    return loss, {"generator_loss": loss, **parts}
