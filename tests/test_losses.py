import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.losses.bpr import bpr_loss, embedding_l2
from mmssl_jax.losses.contrastive import contrastive_loss
from mmssl_jax.methods.mmssl import MMSSL
from mmssl_jax.methods.mmssl.draws import GameDraws, Share
from mmssl_jax.methods.mmssl.losses import feature_l2, generator_loss, recommendation_losses
from mmssl_jax.methods.mmssl.model import Embeddings
from mmssl_jax.methods.mmssl.state import critic_module
from mmssl_jax.sampling import Batch
from tests.problems import (
    N_ITEMS,
    N_USERS,
    edges_of_batch,
    interaction_matrix,
    step_config,
    step_dataset,
)

BATCH = Batch(*(jnp.asarray(x, jnp.int32) for x in ([3, 1, 5], [0, 4, 2], [9, 9, 7])))


def setup_of(**changes):
    return MMSSL.build(step_config(**changes), step_dataset())


def random_embeddings():
    """Of two modalities."""
    rng = np.random.default_rng(0)

    def users():
        return jnp.asarray(rng.normal(size=(N_USERS, 4)), jnp.float32)

    def items():
        return jnp.asarray(rng.normal(size=(N_ITEMS, 4)), jnp.float32)

    def both(make):
        return {"a": make(), "b": make()}

    return Embeddings(
        user=users(),
        item=items(),
        feature_user=both(users),
        feature_item=both(items),
        initial_user=users(),
        initial_item=items(),
        id_user=both(users),
        id_item=both(items),
        modality_weight_user=jnp.full((2, N_USERS), 0.5),
        modality_weight_item=jnp.full((2, N_ITEMS), 0.5),
    )


def test_feature_l2_is_half_the_squares_of_all_nodes_per_item():
    raw = [np.random.default_rng(m).normal(size=(6, 4)) for m in range(3)]
    users, items = {"a": raw[0], "b": raw[1]}, {"a": raw[2][:3], "b": raw[1][:3]}
    penalty = feature_l2(
        {m: jnp.asarray(x, jnp.float32) for m, x in users.items()},
        {m: jnp.asarray(x, jnp.float32) for m, x in items.items()},
    )
    squares = sum((x**2).sum() for x in (*users.values(), *items.values()))
    assert float(penalty) == pytest.approx(squares / 2 / 3, rel=1e-5)


@pytest.mark.parametrize("target", ["final", "initial"])
def test_the_loss_is_the_weighted_sum_of_its_terms(target):
    embeddings = random_embeddings()
    setup = setup_of(
        loss__embedding_l2=0.1,
        loss__l2_target=target,
        loss__feature_l2=0.2,
        loss__contrastive=0.3,
        loss__temperature=0.4,
    )

    loss, parts = recommendation_losses(setup, embeddings, BATCH)

    users, positives, negatives = BATCH
    final = embeddings.user[users], embeddings.item[positives], embeddings.item[negatives]
    of_users, of_items = embeddings.initial_user, embeddings.initial_item
    raw = of_users[users], of_items[positives], of_items[negatives]
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
    _, parts = recommendation_losses(setup_of(loss__contrastive=0.0), random_embeddings(), BATCH)
    assert set(parts) == {"bpr", "embedding_l2", "feature_l2"}


@pytest.mark.parametrize("weight", [0.0, 2.5])
def test_the_adversarial_loss_comes_in_with_its_weight(weight):
    embeddings, key = random_embeddings(), jax.random.key(1)
    setup = setup_of(game__weight=weight, loss__contrastive=0.3)
    critic = None  # where no game is played
    if weight:
        nothing = jnp.zeros((2, 12))
        critic = critic_module(setup).init(jax.random.key(0), nothing, True)["params"]
    edges = edges_of_batch(interaction_matrix(), np.asarray(BATCH.users))
    share = Share(
        BATCH, BATCH.users, edges, jnp.int32(0), GameDraws(key, jnp.zeros((3, 2)), key), key
    )

    loss, parts = generator_loss(setup, embeddings, critic, share)

    rest, rest_parts = recommendation_losses(setup, embeddings, BATCH)
    game = {"adversarial"} if weight else set()
    assert set(parts) == {"generator_loss", *rest_parts, *game}
    expected = float(rest) + weight * float(parts.get("adversarial", 0.0))
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert float(parts["generator_loss"]) == float(loss)
    assert not weight or abs(float(parts["adversarial"])) > 1e-3
