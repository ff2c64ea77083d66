"""Each departure of the release is a setting, and the paper preset does not do as the release does.

The tests run both presets through the same function, and fail if one took the other's side.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import flatten, override
from mmssl_jax.losses.contrastive import contrastive_loss
from mmssl_jax.method import Vectors
from mmssl_jax.methods.mmssl import MMSSL
from mmssl_jax.methods.mmssl.config import MMSSLConfig, preset_config
from mmssl_jax.methods.mmssl.draws import GameDraws, Share, draw, share_batch
from mmssl_jax.methods.mmssl.fusion import CrossModalAttention
from mmssl_jax.methods.mmssl.game.adversarial import batch_real_rows, generated_rows
from mmssl_jax.methods.mmssl.game.critic import Critic, hidden_widths
from mmssl_jax.methods.mmssl.game.factored_rows import project_rows
from mmssl_jax.methods.mmssl.learned_graphs import edges_per_user, learned_edges_of_batch
from mmssl_jax.methods.mmssl.model import id_layers
from mmssl_jax.methods.mmssl.presets import DEPARTURES, PRESETS
from mmssl_jax.methods.mmssl.state import forward
from mmssl_jax.methods.mmssl.step import renew, start_epoch, train_step
from mmssl_jax.optimizers import adamw
from mmssl_jax.sampling import Batch
from mmssl_jax.training.problem import load_problem
from mmssl_jax.training.programs import split_evaluator
from tests.problems import (
    N_ITEMS,
    N_USERS,
    edges_of_batch,
    interaction_matrix,
    propagation_matrix,
    step_config,
    step_dataset,
    step_problem,
    tiny_config,
    tiny_dataset,
)

MATRIX = interaction_matrix()
USERS = np.array([4, 1, 5, 8, 3, 6])
KEYS = [departure.key for departure in DEPARTURES]


@pytest.mark.parametrize("departure", DEPARTURES, ids=KEYS)
def test_a_departure_is_a_setting_whose_default_is_the_papers(departure):
    defaults = flatten(MMSSLConfig())
    assert departure.key in defaults
    assert departure.paper == defaults[departure.key]
    assert departure.paper != departure.released
    assert flatten(preset_config("paper"))[departure.key] == departure.paper
    assert flatten(preset_config("released"))[departure.key] == departure.released


def test_presets_differ_in_the_departures_only():
    paper, released = (flatten(preset_config(name)) for name in ("paper", "released"))
    assert {key for key in paper if paper[key] != released[key]} == {"preset", *KEYS}
    assert set(PRESETS) == {"paper", "released"}
    assert len(set(KEYS)) == len(KEYS)


# Rows on which paper and release agree, or whose other side is a choice: the paper preset's value.
AGREED = {
    "train.monitor": "recall@20",  # 1: on validation, which alone is watched
    "train.patience": 7,  # 27
    "loss.l2_target": "final",  # 14
    "optim.weight_decay": 0.01,  # 14
    "model.propagation_order": "users_first",  # 18
    "model.feature_normalization": "receiver",  # 19
    "model.id_normalization": "receiver",  # 19
    "game.gradient_penalty": 0.3,  # 21
    "loss.feature_l2": 1e-5,  # 22
    "loss.temperature": 0.5,  # 23
    "sampling.by": "user",  # 24
    "eval.mask": "train",  # 26
}


@pytest.mark.parametrize("preset", PRESETS)
def test_rows_on_which_the_presets_agree(preset):
    settings = flatten(preset_config(preset))
    assert {key: settings[key] for key in AGREED} == AGREED


def test_row_26_masked_validation_items_make_room_in_test_lists():
    problem = load_problem(tiny_config("paper"), tiny_dataset())
    masked = problem._replace(config=override(problem.config, {"eval.mask": "train_validation"}))
    vectors = planted_scores(problem.dataset)
    found = {
        mask: {s: split_evaluator(p, s)(vectors)["recall@5"] for s in ("validation", "test")}
        for mask, p in (("train", problem), ("train_validation", masked))
    }
    assert found["train"]["validation"] == found["train_validation"]["validation"] == 1
    assert found["train"]["test"] < found["train_validation"]["test"]


def planted_scores(dataset):
    """Vectors that rank every user's validation items first, and test items behind them."""
    items = np.eye(dataset.n_items, dtype=np.float32)
    users = np.zeros((dataset.n_users, dataset.n_items), np.float32)
    users[tuple(dataset.test.T)] = 1
    users[tuple(dataset.validation.T)] = 2
    # As many items between as fill a list of five.
    for row in users:
        row[np.flatnonzero(row == 0)[:4]] = 1.5
    return Vectors(jnp.asarray(users), jnp.asarray(items))


@pytest.fixture(scope="module")
def embeddings():
    """Evaluation-mode embeddings of the tiny problem under each preset."""
    results = {}
    for preset in PRESETS:
        setup, _, inputs, state = step_problem(step_config(preset))
        results[preset] = jax.jit(
            lambda state, inputs=inputs, setup=setup: forward(
                setup, state.generator, state.learned, inputs, None
            )
        )(state)
    return results


def step_setup(preset, **changes):
    return MMSSL.build(step_config(preset, **changes), step_dataset())


def share_of_users():
    """A batch of USERS, of whose triples only the users are read."""
    users, key = jnp.asarray(USERS), jax.random.key(0)
    game = GameDraws(noise=key, alpha=jnp.zeros((len(USERS), 2)), dropout=key)
    batch = Batch(users, users, users)
    return Share(batch, batch.users, edges_of_batch(MATRIX, USERS), jnp.int32(0), game, key)


def real_rows(preset, embeddings, **changes):
    """The real rows themselves: their product with the identity."""
    setup, kernel = step_setup(preset, **changes), jnp.eye(N_ITEMS)
    rows = batch_real_rows(setup, embeddings[preset], share_of_users(), kernel)
    return np.asarray(project_rows([rows], kernel))


def own_scores(preset, embeddings, mask_observed):
    scores = np.asarray(embeddings[preset].user)[USERS] @ np.asarray(embeddings[preset].item).T
    return scores * (1 - MATRIX[USERS]) if mask_observed else scores


def cosines(x, y):
    return np.sum(x * y, 1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)


def test_row_2_observed_items_stand_out_in_real_rows(embeddings):
    ratios = {}
    for preset in PRESETS:
        rows, observed = real_rows(preset, embeddings, game__score_weight=0.0), MATRIX[USERS] == 1
        ratios[preset] = rows[~observed].max() / rows[observed].min()
    assert ratios["paper"] < 1e-6
    assert ratios["released"] > 0.2


@pytest.mark.parametrize("n_items", [20, 6_710, 9_999])
def test_row_3_some_edges_are_learned_for_catalogues_of_any_size(n_items):
    counts = {}
    for preset in PRESETS:
        structure = preset_config(preset).structure
        counts[preset] = edges_per_user(structure.k, structure.k_rate, n_items)
    assert counts == {"paper": 10, "released": 0}


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_rows_3_and_11_learned_graphs_hold_every_users_own_edges(similarity):
    changed = override(step_config(), {"structure.similarity": similarity})
    setup, _, inputs, state = step_problem(changed)

    @jax.jit
    def start(state):
        features = forward(setup, state.generator, state.learned, inputs, None)
        return start_epoch(setup, state, inputs), features

    rebuilt, embeddings = start(state)

    for m, graph in rebuilt.learned.items():
        users = np.asarray(graph.to_users.receivers)[np.asarray(graph.to_users.edges) > 0]
        items = np.asarray(graph.to_users.senders)[np.asarray(graph.to_users.edges) > 0]
        of_users, of_items = embeddings.feature_user[m], embeddings.feature_item[m]
        known = np.flatnonzero(np.any(np.asarray(of_users) != 0, axis=1))
        np.testing.assert_array_equal(users, np.repeat(known, 3))
        scores = np.asarray(of_users) @ np.asarray(of_items).T
        cosines = scores / np.maximum(np.linalg.norm(of_items, axis=1), 1e-12)[None, :]
        ranked, other = (scores, cosines) if similarity == "dot" else (cosines, scores)
        for user in known:
            # By value, since items without a vector tie at zero.
            chosen = np.sort(ranked[user][items[users == user]])
            np.testing.assert_allclose(chosen, np.sort(ranked[user])[-3:], rtol=1e-5, atol=1e-6)
        assert any(set(items[users == u]) != set(np.argsort(-other[u])[:3]) for u in known)


def test_row_4_learned_edges_belong_to_their_users():
    users, top = jnp.arange(6), jnp.arange(6)[:, None] * 10 + jnp.arange(4)[None, :]
    right = {}
    for preset in PRESETS:
        edges = learned_edges_of_batch(users, top, preset_config(preset).structure.edge_users)
        right[preset] = float(np.mean(np.asarray(edges.items) // 10 == np.asarray(edges.users)))
    assert right["paper"] == 1
    assert right["released"] < 0.5


def test_row_5_attention_weighs_modalities_by_queries_and_keys():
    raw = np.random.default_rng(0).normal(size=(2, 5, 8))
    vectors, params, outputs, weights = jnp.asarray(raw, jnp.float32), {}, {}, {}
    for preset in PRESETS:
        attention = CrossModalAttention(8, 2, preset_config(preset).model.attention_values)
        params[preset] = attention.init(jax.random.key(0), list(vectors))["params"]
        for scale in (1.0, 3.0):
            scaled = {k: v * (1 if k == "output" else scale) for k, v in params[preset].items()}
            out = attention.apply({"params": scaled}, list(vectors))
            outputs[preset, scale], weights[preset, scale] = jax.tree.map(np.asarray, out)

    assert set(params["paper"]) == {"query", "key", "output"}
    assert set(params["released"]) == {"output"}
    assert np.abs(outputs["paper", 1.0] - outputs["paper", 3.0]).max() > 1e-2
    assert np.ptp(weights["paper", 3.0]) > 0.05
    np.testing.assert_array_equal(outputs["released", 1.0], outputs["released", 3.0])
    assert np.ptp(weights["released", 3.0]) == 0


def critic_scores(config, shift):
    """Training-mode scores, without dropout, of two batches apart by `shift`."""
    critic = Critic(N_ITEMS, config)
    width = hidden_widths(config, N_ITEMS)[0]
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, width)), jnp.float32)
    params = critic.init(jax.random.key(0), rows[0], True)["params"]
    batches = rows[0], 0.3 * rows[1] + shift * jnp.arange(width)[None, :] / width
    return [np.asarray(critic.apply({"params": params}, batch, True)) for batch in batches]


def test_row_7_mean_scores_of_real_and_generated_rows_can_differ():
    gaps = {}
    for preset in PRESETS:
        norm = preset_config(preset).critic.norm
        real, fake = critic_scores(step_config(critic__norm=norm).critic, 2.0)
        gaps[preset] = abs(real.mean() - fake.mean())
    assert gaps["paper"] > 0.05
    assert gaps["released"] < 1e-5


def test_row_7_the_score_is_not_bounded():
    largest = {}
    for preset in PRESETS:
        config = step_config(critic__score_bound=preset_config(preset).critic.score_bound).critic
        critic = Critic(N_ITEMS, config)
        params = critic.init(jax.random.key(0), jnp.ones((2, 12)), True)["params"]
        params["score"]["kernel"] *= 1e4
        rows = jnp.asarray(np.random.default_rng(0).normal(size=(20, 12)), jnp.float32)
        scores = np.asarray(critic.apply({"params": params}, rows, True))
        largest[preset] = scores.min(), scores.max()
    assert largest["paper"][0] < -100
    assert largest["paper"][1] > 100
    assert largest["released"] == (0, 100)


def test_row_7_widths_do_not_grow_with_the_catalogue():
    widths = {
        preset: [hidden_widths(preset_config(preset).critic, n) for n in (6_710, 100_000)]
        for preset in PRESETS
    }
    assert widths["paper"] == [(512, 256)] * 2
    assert widths["released"] == [(1_677, 838), (25_000, 12_500)]


def test_row_8_the_activation_is_not_the_identity():
    # Without the norms' curvature a critic of slope 1 is linear: one row, halfway between two.
    curvature = {}
    for preset in PRESETS:
        slope = preset_config(preset).critic.slope
        x = jnp.linspace(-1, 1, 3)
        y = jax.nn.leaky_relu(x, slope)
        curvature[preset] = float(y[0] + y[2] - 2 * y[1])
        real, _ = critic_scores(step_config(critic__slope=slope).critic, 0.0)
        curvature[preset, "scores"] = real
    assert curvature["paper"] == pytest.approx(0.8)
    assert curvature["released"] == 0
    assert np.abs(curvature["paper", "scores"] - curvature["released", "scores"]).max() > 1e-2


def test_row_9_the_observed_interactions_matter_in_real_rows(embeddings):
    similarity = {}
    for preset in PRESETS:
        masked = step_config(preset).structure.mask_observed
        similarity[preset] = cosines(
            real_rows(preset, embeddings), own_scores(preset, embeddings, masked)
        )
    assert np.all(similarity["paper"] < 0.98)
    assert np.all(similarity["released"] > 0.999)


def test_row_10_observed_pairs_are_scored(embeddings):
    for preset in PRESETS:
        blocks = generated_rows(step_setup(preset), embeddings[preset], share_of_users())
        rows = project_rows(blocks, jnp.eye(N_ITEMS))
        observed = np.abs(np.asarray(rows))[np.tile(MATRIX[USERS], (2, 1)) == 1]
        if preset == "paper":
            assert np.mean(observed > 1e-3) > 0.9
        else:
            assert observed.max() < 1e-5


def edges_by_step(preset, n_steps, **changes):
    """How many edges the learned graph has before the first step and after each."""
    setup, _, inputs, state = step_problem(step_config(preset, **changes))
    sizes = setup.sizes

    @jax.jit
    def step(state):
        embeddings = forward(setup, state.generator, state.learned, inputs, None)
        key = jax.random.fold_in(jax.random.key(0), state.step)
        share = share_batch(setup, draw(setup, key, inputs), inputs)
        is_first = state.step % sizes.steps_per_epoch == 0
        state = jax.lax.cond(is_first, lambda: start_epoch(setup, state, inputs), lambda: state)
        state = renew(setup, state, embeddings, share, inputs)
        return state._replace(step=state.step + 1)

    counts = [int(np.sum(np.asarray(state.learned["m0"].to_users.edges) > 0))]
    for _ in range(n_steps):
        state = step(state)
        counts.append(int(np.sum(np.asarray(state.learned["m0"].to_users.edges) > 0)))
    return counts, sizes


def test_rows_3_and_11_the_releases_graph_is_empty_after_two_steps_of_an_epoch():
    counts, sizes = edges_by_step("released", 5, structure__k_rate=None)
    # The observed graph, then the first batch's edges for one step, then nothing.
    assert sizes.steps_per_epoch > 5
    assert counts == [MATRIX.sum(), MATRIX.sum(), 6 * 3, 0, 0, 0]


def test_row_3_the_releases_own_k_empties_the_graph_at_once():
    counts, sizes = edges_by_step("released", 3)
    assert sizes.k == 0
    assert counts == [MATRIX.sum(), MATRIX.sum(), 0, 0]


def test_row_11_the_papers_graph_covers_all_users_at_every_step():
    counts, _ = edges_by_step("paper", 3)
    assert counts == [MATRIX.sum(), *[3 * (N_USERS - 1)] * 3]


def test_row_3_the_contrastive_loss_has_a_gradient_unless_the_graph_is_empty(embeddings):
    users = jnp.asarray(USERS)
    keys = embeddings["paper"].user[users]
    anchors = embeddings["paper"].id_user["m0"][users]
    of_anchors, of_empty = (
        jax.grad(contrastive_loss, argnums=(0, 1))(x, keys, users, 0.5)
        for x in (anchors, jnp.zeros_like(anchors))
    )
    assert all(np.abs(gradient).max() > 1e-3 for gradient in of_anchors)
    assert all(np.all(np.asarray(gradient) == 0) for gradient in of_empty)


def test_row_12_no_softmax_in_the_last_round():
    inputs = step_problem(step_config()).inputs
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(N_USERS, 8)), rng.normal(size=(N_ITEMS, 8))
    last = {}
    for preset in PRESETS:
        config = step_config(preset, model__gnn_layers=1).model
        before = jnp.asarray(users, jnp.float32), jnp.asarray(items, jnp.float32)
        last[preset], _ = id_layers(inputs.observed.ids, *before, config)[-1]
    np.testing.assert_allclose(
        last["paper"], propagation_matrix(MATRIX, "receiver") @ items, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(last["released"].sum(axis=1), np.ones(N_USERS), rtol=1e-4)


def test_row_13_the_learning_rate_decays():
    steps_per_epoch, moved = 4, {}
    params = {"w": jnp.zeros(1)}
    for preset in PRESETS:
        optimizer = adamw(preset_config(preset).optim, steps_per_epoch)
        state = optimizer.init(params)
        for epoch in (0, 50, 100):
            count = jnp.int32(epoch * steps_per_epoch)
            at_epoch = jax.tree.map(
                lambda leaf, c=count: c if leaf.dtype == c.dtype else leaf, state
            )
            updates, _ = optimizer.update({"w": jnp.ones(1)}, at_epoch, params)
            # Adam's own correction of its moments depends on the count, alike in both presets.
            moved[preset, epoch] = float(updates["w"][0])
    ratios = [moved["paper", epoch] / moved["released", epoch] for epoch in (0, 50, 100)]
    np.testing.assert_allclose(ratios, [1, 0.96, 0.96**2], rtol=1e-4)


@pytest.mark.parametrize("n_modalities", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_row_15_any_number_of_modalities_trains(n_modalities):
    # Without dropout the step compiles much faster.
    config = step_config(
        model__gnn_layers=1, model__dropout=0.0, critic__dropout=(0.0, 0.0), game__weight=0.1
    )
    setup, _, inputs, state = step_problem(config, n_modalities)
    draws = draw(setup, jax.random.key(0), inputs)

    after, metrics = jax.jit(lambda state: train_step(setup, state, draws, inputs))(state)

    assert sum(name.startswith("contrastive_") for name in metrics) == n_modalities
    assert all(np.isfinite(value) for value in metrics.values())
    for m in inputs.features:
        before = state.generator["encoder"][m]["kernel"]
        assert np.any(before != after.generator["encoder"][m]["kernel"])


def test_row_20_both_players_see_the_same_masks():
    same = {}
    for preset in PRESETS:
        setup, _, inputs, _ = step_problem(step_config(preset))
        draws = draw(setup, jax.random.key(0), inputs)
        keys = [jax.random.key_data(k) for k in (draws.critic_forward, draws.generator_forward)]
        same[preset] = np.array_equal(*keys)
    assert same == {"paper": True, "released": False}
