"""The generator's total loss: the only place that knows the weights of its terms."""

from typing import Any

import jax
from jaxtyping import Array, Float, Int, Key

from mmssl_jax.config import Config, LossConfig
from mmssl_jax.graph.rows import BatchEdges
from mmssl_jax.losses.adversarial import adversarial_loss
from mmssl_jax.losses.bpr import bpr_loss, embedding_l2, feature_l2
from mmssl_jax.losses.contrastive import contrastive_loss
from mmssl_jax.losses.edge_likelihood import edge_likelihood_loss
from mmssl_jax.model.critic import Critic
from mmssl_jax.model.mmssl import Embeddings


def recommendation_losses(
    embeddings: Embeddings,
    initial: tuple[Float[Array, "U D"], Float[Array, "I D"]],
    users: Int[Array, " B"],
    positives: Int[Array, " B"],
    negatives: Int[Array, " B"],
    config: LossConfig,
    axis: str | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """bpr + l2 + feature_l2 + sum over modalities of the contrastive loss, weighted.

    Args:
      initial: the ID embeddings of users and items, for `l2_target` initial.
    Returns: the weighted sum, and each term: the L2 terms with their weights, the others without.
    """
    with jax.named_scope("bpr"):
        vectors = embeddings.user[users], embeddings.item[positives], embeddings.item[negatives]
        parts = {"bpr": bpr_loss(*vectors)}
        if config.l2_target == "initial":
            vectors = initial[0][users], initial[1][positives], initial[1][negatives]
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
                    ids[users], keys, users, config.temperature, axis, config.mask_repeated
                )
                parts[f"contrastive_{modality}"] = term
                loss = loss + config.contrastive * term
    return loss, parts


def generator_loss(
    embeddings: Embeddings,
    initial: tuple[Float[Array, "U D"], Float[Array, "I D"]],
    batch: tuple[Int[Array, " B"], Int[Array, " B"], Int[Array, " B"]],
    edges: BatchEdges,
    critic: Critic,
    critic_params: Any,
    dropout: Key[Array, ""],
    config: Config,
    axis: str | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """All losses of the generator, the adversarial one against the critic as it stands now, or
    the edge likelihood in its place.

    Args:
      batch: users, positives and negatives.
      edges: the users' training interactions.
      dropout: key of the critic's dropout masks.
    """
    loss, parts = recommendation_losses(embeddings, initial, *batch, config.loss, axis)
    if config.game.weight and config.game.kind == "edge_likelihood":
        with jax.named_scope("edge_likelihood"):
            parts["edge_likelihood"] = edge_likelihood_loss(
                embeddings.feature_user, embeddings.feature_item, *batch
            )
        loss = loss + config.game.weight * parts["edge_likelihood"]
    elif config.game.weight:
        with jax.named_scope("adversarial"):
            parts["adversarial"] = adversarial_loss(
                critic_params,
                critic,
                embeddings,
                batch[0],
                edges,
                dropout,
                config.structure.mask_observed,
            )
        loss = loss + config.game.weight * parts["adversarial"]
    return loss, {"generator_loss": loss, **parts}
