import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import LossConfig
from mmssl_jax.losses.bpr import bpr_loss, embedding_l2, feature_l2
from mmssl_jax.losses.contrastive import contrastive_loss
from mmssl_jax.methods.mmssl.game.critic import Critic
from mmssl_jax.methods.mmssl.losses import generator_loss, recommendation_losses
from mmssl_jax.methods.mmssl.model import Embeddings
from tests.problems import (
    N_ITEMS,
    N_USERS,
    edges_of_batch,
    interaction_matrix,
    step_config,
)

BATCH = tuple(jnp.asarray(x, jnp.int32) for x in ([3, 1, 5], [0, 4, 2], [9, 9, 7]))


def random_vectors():
    """Embeddings of two modalities, and initial ID embeddings."""
    rng = np.random.default_rng(0)

    def users():
        return jnp.asarray(rng.normal(size=(N_USERS, 4)), jnp.float32)

    def items():
        return jnp.asarray(rng.normal(size=(N_ITEMS, 4)), jnp.float32)

    def both(make):
        return {"a": make(), "b": make()}

    weights = jnp.full((2, N_USERS), 0.5), jnp.full((2, N_ITEMS), 0.5)
    parts = [both(make) for make in (users, items, users, items)]
    return Embeddings(users(), items(), *parts, *weights), (users(), items())


@pytest.mark.parametrize("target", ["final", "initial"])
def test_the_loss_is_the_weighted_sum_of_its_terms(target):
    embeddings, initial = random_vectors()
    config = LossConfig(0.1, target, 0.2, 0.3, 0.4)

    loss, parts = recommendation_losses(embeddings, initial, *BATCH, config)

    users, positives, negatives = BATCH
    final = embeddings.user[users], embeddings.item[positives], embeddings.item[negatives]
    raw = initial[0][users], initial[1][positives], initial[1][negatives]
    expected = {
        "bpr": bpr_loss(*final),
        "embedding_l2": 0.1 * embedding_l2(*(final if target == "final" else raw)),
        "feature_l2": 0.2 * feature_l2(embeddings.feature_user, embeddings.feature_item),
    }
    for m in ("a", "b"):
        anchors = embeddings.id_user[m][users]
        expected[f"contrastive_{m}"] = contrastive_loss(anchors, final[0], users, 0.4)
    assert set(parts) == set(expected)
    for name, value in expected.items():
        assert float(parts[name]) == pytest.approx(float(value), rel=1e-6), name
    weighted = sum(
        float(value) * (0.3 if name.startswith("contrastive") else 1)
        for name, value in expected.items()
    )
    assert float(loss) == pytest.approx(weighted, rel=1e-5)


def test_weight_zero_leaves_the_contrastive_terms_out():
    embeddings, initial = random_vectors()
    config = LossConfig(contrastive=0.0)
    _, parts = recommendation_losses(embeddings, initial, *BATCH, config)
    assert set(parts) == {"bpr", "embedding_l2", "feature_l2"}


@pytest.mark.parametrize("weight", [0.0, 2.5])
def test_the_adversarial_loss_comes_in_with_its_weight(weight):
    embeddings, initial = random_vectors()
    config = step_config(game__weight=weight, loss__contrastive=0.3)
    critic = Critic(N_ITEMS, config.critic)
    params = critic.init(jax.random.key(0), jnp.zeros((2, 12)), True)["params"]
    edges = edges_of_batch(interaction_matrix(), np.asarray(BATCH[0]))

    loss, parts = generator_loss(
        embeddings, initial, BATCH, edges, critic, params, jax.random.key(1), config
    )

    rest, rest_parts = recommendation_losses(embeddings, initial, *BATCH, config.loss)
    game = {"adversarial"} if weight else set()
    assert set(parts) == {"generator_loss", *rest_parts, *game}
    expected = float(rest) + weight * float(parts.get("adversarial", 0.0))
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert float(parts["generator_loss"]) == float(loss)
    assert not weight or abs(float(parts["adversarial"])) > 1e-3
