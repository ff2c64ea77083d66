"""The plain form of the method and the package's own step arrive at the same state."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.methods.mmssl import MMSSL, reference
from mmssl_jax.methods.mmssl.as_reference import plain_data, plain_draws, plain_state
from mmssl_jax.methods.mmssl.config import MMSSLConfig
from mmssl_jax.methods.mmssl.draws import Draws, GameDraws
from mmssl_jax.methods.mmssl.learned_graphs import EdgeList, learned_graph
from mmssl_jax.methods.mmssl.state import State, forward
from mmssl_jax.methods.mmssl.step import start_epoch, train_step
from mmssl_jax.sampling import Batch
from tests.problems import (
    N_ITEMS,
    N_USERS,
    StepProblem,
    assert_close,
    interaction_matrix,
    precision,
    step_config,
    step_problem,
)

TOLERANCE = 1e-10
MATRIX = interaction_matrix()
NO_DROPOUT = {"model__dropout": 0.0, "critic__dropout": (0.0, 0.0), "game__weight": 0.5}
# Rates that move the parameters; and batches that hold a user more than once.
LIVELY = {"optim__lr": 0.03, "optim__critic_lr": 0.02, "sampling__by": "interaction"}
WARM = {"game__temperature": 0.6, "game__gumbel_scale": 0.4}
# Four steps an epoch, of which the third (from the second epoch on) makes the edges of three
# batches the graph: two edges for each triple.
EDGES = {
    "structure__source": "batches",
    "structure__every": 2,
    "structure__k_rate": 0.1,
    "sampling__batch_size": 16,
}


class Case(NamedTuple):
    """A configuration, the steps to take with it, those that renew the graphs, and the data."""

    config: MMSSLConfig
    steps: int
    renewals: tuple[int, ...]
    n_modalities: int
    partial: bool


def case(
    preset: str = "paper",
    steps: int = 2,
    renewals: tuple[int, ...] = (),
    n_modalities: int = 2,
    partial: bool = False,
    **changes: Any,
) -> Case:
    """A case without dropout, which the two do not draw alike."""
    config = step_config(preset, **{**NO_DROPOUT, **LIVELY, **changes})
    return Case(config, steps, renewals, n_modalities, partial)


CASES = {
    "paper": case(renewals=(1,), structure__every=2, **WARM),
    "released": case("released", 7, (2, 6), **EDGES),
    "three modalities, masked": case(
        renewals=(0, 1), n_modalities=3, structure__every=1, structure__mask_observed=True
    ),
    "attention queries, forward passes apart": case(
        train__shared_forward=False,
        model__attention_values="queries",
        model__propagation_order="simultaneous",
        model__feature_normalization="symmetric",
        model__id_normalization="mean",
    ),
    "edge likelihood": case(game__kind="edge_likelihood"),
    "no game, edges from batches of repeated users, decay": case(
        steps=7,
        renewals=(2, 6),
        **EDGES,
        game__weight=0.0,
        optim__lr_decay=0.01,
        loss__mask_repeated=False,
    ),
    # By cosine, items whose features come from the same single user would tie.
    "partial modality, observed real rows, initial L2": case(
        renewals=(0, 1),
        partial=True,
        structure__every=1,
        structure__similarity="dot",
        game__real_rows="observed",
        loss__l2_target="initial",
    ),
}


def presence() -> np.ndarray:
    """Who has modality m0: no item of user 1, and some of the others."""
    present = np.random.default_rng(2).random(N_ITEMS) < 0.6
    present[MATRIX[1].astype(bool)] = False
    return present


def problem_of(case: Case, dtype: Any) -> StepProblem:
    problem = step_problem(case.config, case.n_modalities, dtype)
    if not case.partial:
        return problem
    dataset = dataclasses.replace(problem.dataset, presence={"m0": presence()})
    setup = MMSSL.build(case.config, dataset)
    return problem._replace(setup=setup, dataset=dataset, inputs=setup.inputs(dataset))


def first_state(problem: StepProblem) -> State:
    """The state before the first step, with a random learned graph of its own for each modality:
    were they the same, the attention's queries and keys would have no gradient."""
    state, rng, graphs = problem.state, np.random.default_rng(3), {}
    length = state.learned["m0"].to_users.senders.shape[0]
    for m in problem.inputs.features:
        users = jnp.asarray(rng.integers(N_USERS, size=length), jnp.int32)
        items = jnp.asarray(rng.integers(N_ITEMS, size=length), jnp.int32)
        edges = EdgeList(users, items, jnp.asarray(rng.random(length) < 0.7))
        graphs[m] = learned_graph(edges, N_USERS, N_ITEMS)
    return state._replace(learned=graphs)


def draws_of(case: Case, step: int, dtype: Any) -> Draws:
    """A step's draws; user 2, who knows nearly all items, is in the batch twice."""
    rng, size = np.random.default_rng(step), case.config.sampling.batch_size
    users = np.r_[2, 2, 1, rng.integers(1, N_USERS, size - 3)]
    positives, negatives = (
        [rng.choice(np.flatnonzero(MATRIX[user] == wanted)) for user in users] for wanted in (1, 0)
    )
    batch = Batch(*(jnp.asarray(ids, jnp.int32) for ids in (users, positives, negatives)))
    uniform = jnp.asarray(rng.uniform(size=(size, N_ITEMS)).astype(np.float32), dtype)
    alpha = jnp.asarray(rng.uniform(size=(size, case.n_modalities)), dtype)
    keys = jax.random.split(jax.random.key(step), 4)
    shared = case.config.train.shared_forward
    game = GameDraws(uniform, alpha, keys[2])
    return Draws(batch, game, keys[0], keys[0] if shared else keys[1], keys[3])


def weights_of(graphs: dict) -> dict[str, list[np.ndarray]]:
    """The package's graphs in full, weights [U, I] of messages to users and [I, U] to items."""
    full = {m: [np.zeros((N_USERS, N_ITEMS)), np.zeros((N_ITEMS, N_USERS))] for m in graphs}
    for m, graph in graphs.items():
        for matrix, directed in zip(full[m], graph, strict=True):
            np.add.at(matrix, (directed.receivers, directed.senders), directed.edges)
    return full


@jax.jit
def plain_weights_of(learned: dict[str, reference.Edges]) -> dict[str, list[jax.Array]]:
    """The same of edge lists: what they make of unit vectors."""
    return {
        m: [
            reference.propagate(edges, "users", jnp.eye(N_ITEMS), N_USERS, "receiver"),
            reference.propagate(edges, "items", jnp.eye(N_USERS), N_ITEMS, "receiver"),
        ]
        for m, edges in learned.items()
    }


# Behind a layer without a bend, batch normalisation takes these out. Their gradients are rounding
# alone, which Adam divides by its own size.
SHIFTS = ("first_bias", "norm_0']['bias", "dense_1']['bias")


def players(state: State | reference.State, config: MMSSLConfig) -> tuple:
    """Both players' parameters and optimizer states, with 0 for what has no effect."""
    has_shifts = config.critic.norm == "batch" and config.critic.slope == 1

    def effective(path: Any, leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        return leaf * 0 if has_shifts and any(shift in name for shift in SHIFTS) else leaf

    # Where there is no critic, its parameters are None or empty.
    both = state.generator, state.critic or None, state.generator_opt, state.critic_opt
    return jax.tree_util.tree_map_with_path(effective, both)


@pytest.mark.parametrize("name", CASES)
def test_both_arrive_at_the_same_state(name):
    case = CASES[name]
    with precision("float64") as dtype:
        problem = problem_of(case, dtype)
        setup, config, inputs = problem.setup, problem.config, problem.inputs
        data, state = plain_data(setup, inputs), first_state(problem)
        plain = plain_state(state)
        package_step = jax.jit(lambda s, d: train_step(setup, s, d, inputs))
        plain_step = jax.jit(lambda s, d: reference.train_step(config, data, s, d))
        graphs, renewals = weights_of(state.learned), []
        assert_close(plain_weights_of(plain.learned), graphs, TOLERANCE)
        for step in range(case.steps):
            draws = draws_of(case, step, dtype)
            state, metrics = package_step(state, draws)
            plain, plain_metrics = plain_step(plain, plain_draws(draws, N_ITEMS))
            assert_close(plain_metrics, metrics, TOLERANCE)
            assert_close(players(plain, config), players(state, config), TOLERANCE)
            graphs, old_graphs = weights_of(state.learned), graphs
            assert_close(plain_weights_of(plain.learned), graphs, TOLERANCE)
            if any(np.any(graphs[m][0] != old_graphs[m][0]) for m in graphs):
                renewals.append(step)
    assert tuple(renewals) == case.renewals
    assert int(plain.step) == int(state.step) == case.steps


@pytest.mark.parametrize("partial", [False, True])
def test_both_rebuild_at_the_start_of_an_epoch_and_embed_alike(partial):
    case = CASES["paper"]
    changes = {"structure__mask_observed": True, "structure__similarity": "dot"} if partial else {}
    case = case._replace(config=step_config(**NO_DROPOUT, **changes), partial=partial)
    with precision("float64") as dtype:
        problem = problem_of(case, dtype)
        setup, config, inputs = problem.setup, problem.config, problem.inputs
        data, state = plain_data(setup, inputs), first_state(problem)
        plain = plain_state(state)

        @jax.jit
        def package(state):
            return forward(setup, state.generator, state.learned, inputs, None)

        @jax.jit
        def in_plain_form(plain):
            return reference.forward(plain.generator, config.model, data, plain.learned, None)

        def assert_alike(state, plain):
            assert_close(plain_weights_of(plain.learned), weights_of(state.learned), TOLERANCE)
            embeddings, plain_embeddings = package(state), in_plain_form(plain)
            for field in plain_embeddings._fields:
                ours, theirs = getattr(plain_embeddings, field), getattr(embeddings, field)
                assert_close(ours, theirs, TOLERANCE)

        assert_alike(state, plain)
        before = weights_of(state.learned)
        # The package's caller knows where an epoch starts, the plain form looks at the step.
        state = jax.jit(lambda state: start_epoch(setup, state, inputs))(state)
        plain_start = jax.jit(lambda plain: reference.start_epoch(config, data, plain))
        within = plain_start(plain._replace(step=jnp.int32(1)))
        assert_close(plain_weights_of(within.learned), before, TOLERANCE)
        plain = plain_start(plain._replace(step=jnp.int32(setup.sizes.steps_per_epoch)))
        after = weights_of(state.learned)
        assert any(np.any(after[m][0] != before[m][0]) for m in after)
        assert_alike(state, plain)


@pytest.mark.parametrize("name", ["paper", "released"])
def test_neither_rebuilds_at_the_start_of_an_epoch_where_that_is_not_the_schedule(name):
    problem = problem_of(CASES[name], "float32")
    setup, inputs, state = problem.setup, problem.inputs, problem.state
    data, plain = plain_data(setup, inputs), plain_state(state)
    assert setup.config.structure.every
    assert start_epoch(setup, state, inputs) is state
    assert reference.start_epoch(setup.config, data, plain) is plain


def test_a_step_of_the_plain_form_by_a_key_is_the_packages_step():
    # Real rows without noise, which a key does not give alike.
    config = step_config(**NO_DROPOUT, **LIVELY, game__real_rows="observed")
    with precision("float64") as dtype:
        problem, key = step_problem(config, dtype=dtype), jax.random.key(4)
        setup, inputs, state = problem.setup, problem.inputs, first_state(problem)
        ours = jax.jit(setup.reference_step)(state, key, inputs)
        theirs, _ = jax.jit(setup.step)(state, key, inputs)
        assert_close(players(ours, config), players(theirs, config), TOLERANCE)
    assert int(ours.step) == int(theirs.step) == 1


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_critic_has_the_packages_parameters(preset):
    problem = step_problem(step_config(preset))
    critic, rows = reference.Critic(problem.config.critic), jnp.zeros((2, N_ITEMS))
    ours = jax.eval_shape(lambda: critic.init(jax.random.key(0), rows, True)["params"])
    theirs = jax.eval_shape(
        lambda inputs: problem.setup.init(jax.random.key(0), inputs).critic, problem.inputs
    )
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, theirs)


def test_gradients_are_finite_at_zero_rows():
    config, zeros = step_config(**NO_DROPOUT), jnp.zeros((3, N_ITEMS))
    critic = reference.Critic(config.critic)
    params = critic.init(jax.random.key(0), zeros, True)["params"]
    blank = jax.tree.map(jnp.zeros_like, params)

    def of_rows(rows, params):
        score = jnp.mean(reference.score(params, config.critic, rows, None))
        return score + reference.gradient_penalty(params, config.critic, rows, None)

    def of_vectors(users, items):
        scores = reference.generated_rows(users, items, zeros, True)
        real = reference.real_rows(zeros, zeros + 0.5, scores, config.game)
        contrastive = reference.contrastive_loss(users, users, jnp.arange(3), config.loss)
        return jnp.sum(real) + jnp.sum(scores) + contrastive

    @jax.jit
    def gradients():
        vectors = jnp.zeros((3, 8)), jnp.zeros((N_ITEMS, 8))
        return (
            jax.grad(of_rows, argnums=(0, 1))(zeros, params),
            jax.grad(of_rows, argnums=(0, 1))(zeros, blank),
            jax.grad(of_vectors, argnums=(0, 1))(*vectors),
        )

    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients()))


def test_dropout_keeps_the_mean_and_follows_its_keys():
    config = step_config(model__dim=64, model__dropout=0.25)
    ones, key = jnp.ones((500, 1)), jax.random.key(0)
    nothing = jnp.zeros(0, jnp.int32)
    edges = reference.Edges(nothing, nothing, nothing.astype(bool))
    data = reference.Data(edges, {"a": ones, "b": ones}, {}, 1, 500)
    params = {m: {"kernel": jnp.ones((1, 64)), "bias": jnp.zeros(64)} for m in data.features}

    first, again, other, none = (
        jax.tree.map(np.asarray, reference.encode(params, data, config.model, dropout))
        for dropout in (key, key, jax.random.key(1), None)
    )

    assert np.unique(first["a"]) == pytest.approx([0, 1 / 0.75])
    assert np.mean(first["a"]) == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(first["a"], again["a"])
    assert np.any(first["a"] != other["a"])
    assert np.any(first["a"] != first["b"])
    assert np.all(none["a"] == 1)


@pytest.mark.parametrize("shared", [True, False])
def test_the_generators_dropout_is_the_critics_where_they_share_a_forward_pass(shared):
    config = step_config(train__shared_forward=shared, game__weight=0.0)
    problem = step_problem(config)
    data, state = plain_data(problem.setup, problem.inputs), plain_state(first_state(problem))
    draws = draws_of(CASES["paper"]._replace(config=config), 0, jnp.float32)
    draws = plain_draws(draws, N_ITEMS)
    loss = jax.jit(
        lambda draws: reference.generator_loss(state.generator, config, data, state, draws)[0]
    )
    usual, other = (
        float(loss(draws._replace(generator_forward=jax.random.key(k)))) for k in (5, 6)
    )
    assert (usual == other) == shared


def test_the_file_is_short_and_plain():
    text = Path(reference.__file__).read_text()
    assert len(text.splitlines()) <= 450
    assert "custom_" not in text
