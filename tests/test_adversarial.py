import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.methods.mmssl import reference
from mmssl_jax.methods.mmssl.draws import GameDraws, Share, draw, share_batch
from mmssl_jax.methods.mmssl.game.adversarial import (
    adversarial_loss,
    critic_loss,
    gradient_penalty,
    squared_norms,
)
from mmssl_jax.methods.mmssl.game.critic import Critic
from mmssl_jax.methods.mmssl.losses import generator_loss, recommendation_losses
from mmssl_jax.methods.mmssl.state import critic_module, forward
from mmssl_jax.methods.mmssl.step import apply_critic, critic_gradients, train_step
from mmssl_jax.sampling import Batch
from tests.problems import (
    N_ITEMS,
    PRECISIONS,
    TOLERANCE,
    assert_close,
    edges_of_batch,
    interaction_matrix,
    precision,
    relative_error,
    step_config,
    step_problem,
)

MATRIX = interaction_matrix()
USERS = np.array([2, 1, 5, 8, 3, 2])  # nearly all items, one item, some; one user twice
# Taking nearly all of a masked row's scores out cancels, which costs float32 digits.
FEWER_ITEMS = np.array([6, 1, 5, 8, 3, 4, 7])


def batch_users(config, name):
    cancels = config.structure.mask_observed and name == "float32"
    return FEWER_ITEMS if cancels else USERS


WARM = {"game__temperature": 0.6, "game__gumbel_scale": 0.4}
BATCH_NORM = {"critic__norm": "batch", "critic__score_bound": 5.0}
NO_DROPOUT = {"model__dropout": 0.0, "critic__dropout": (0.0, 0.0)}  # compiles much faster
CONFIGS = {
    "paper": step_config(),
    "masked, warm, batch norm": step_config(
        structure__mask_observed=True, **WARM, **BATCH_NORM, **NO_DROPOUT
    ),
    "released": step_config("released", **NO_DROPOUT),
}


class Game:
    """One round of the tiny problem's game, in a float type, and its losses by dense rows."""

    def __init__(self, config, dtype, users=USERS):
        rng = np.random.default_rng(0)
        self.setup, _, self.inputs, self.state = step_problem(config, dtype=dtype)
        self.config, self.params = config, self.state.critic
        uniform = rng.uniform(size=(len(users), N_ITEMS)).astype(np.float32)
        self.uniform, self.observed = (jnp.asarray(x, dtype) for x in (uniform, MATRIX[users]))
        alpha = jnp.asarray(rng.uniform(size=(len(users), 2)), dtype)
        self.users, self.key = jnp.asarray(users, jnp.int32), jax.random.key(7)
        self.share = Share(
            batch=Batch(self.users, self.users, self.users),  # the game reads the users alone
            edges=edges_of_batch(MATRIX, users),
            first_row=jnp.int32(0),
            game=GameDraws(self.uniform, alpha, self.key),
            generator_critic=self.key,
        )

    def embed(self, generator):
        return forward(self.setup, generator, self.state.learned, self.inputs, self.key)

    def dense_rows(self, users, items):
        masked = self.config.structure.mask_observed
        return reference.generated_rows(users[self.users], items, self.observed, masked)

    def dense_fake(self, embeddings):
        of_users, of_items = embeddings.feature_user, embeddings.feature_item
        return jnp.concatenate([self.dense_rows(of_users[m], of_items[m]) for m in of_users])

    def dense_score(self, params, rows, key):
        critic, projection = critic_module(self.setup), rows @ params["first_kernel"]
        n_blocks = max(1, len(rows) // len(self.users))  # by modality, but numbered by user
        numbers = jnp.arange(len(rows)).reshape(-1, n_blocks).T.reshape(-1)
        return critic.apply({"params": params}, projection, False, numbers, rngs={"dropout": key})

    def dense_critic_loss(self, params):
        embeddings, game = self.embed(self.state.generator), self.config.game
        fake, own = self.dense_fake(embeddings), self.dense_rows(embeddings.user, embeddings.item)
        real = reference.real_rows(self.observed, self.uniform, own, game)
        real = jnp.concatenate([real, real])
        alpha = self.share.game.alpha
        alpha = jnp.concatenate([alpha[:, 0], alpha[:, 1]])[:, None]
        fake_key, real_key, between_key = jax.random.split(self.key, 3)
        gradients = jax.grad(lambda x: jnp.sum(self.dense_score(params, x, between_key)))(
            alpha * real + (1 - alpha) * fake
        )
        # Dropout of a whole layer makes a row's gradient zero, where the norm has no derivative.
        penalty = game.gradient_penalty * jnp.mean((reference.norms(gradients) - 1) ** 2)
        fake_score = jnp.mean(self.dense_score(params, fake, fake_key))
        real_score = jnp.mean(self.dense_score(params, real, real_key))
        return fake_score - real_score + penalty, penalty

    def structured_critic_loss(self, params):
        embeddings = self.embed(self.state.generator)
        loss, parts = critic_loss(self.setup, params, embeddings, self.share)
        return loss, parts["gradient_penalty"]


def critic_loss_and_gradients(config, name, users, rows):
    with precision(name) as dtype:
        game = Game(config, dtype, users)
        loss = game.dense_critic_loss if rows == "dense" else game.structured_critic_loss
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(game.params)


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_critic_loss_and_gradients_are_those_of_dense_rows(config, name):
    users = batch_users(config, name)

    losses, gradients = critic_loss_and_gradients(config, name, users, "structured")

    assert losses[0].dtype == name
    expected_losses, expected = critic_loss_and_gradients(config, "float64", users, "dense")
    assert_close(losses, expected_losses, TOLERANCE[name])
    # Some true gradients are zero: the score's bias cancels, and batch norm removes shifts.
    errors = [relative_error(gradients, expected, floor=0.1)]
    if name == "float32":
        # Dense sums of float32 may round by more than structured ones, and layers that both share
        # may round by more than either: then float64 does not, or does not alone, tell.
        _, rounded = critic_loss_and_gradients(config, name, users, "dense")
        errors.append(relative_error(gradients, rounded, floor=0.1))
    assert min(errors) <= TOLERANCE[name], f"relative errors {errors}"


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("name", PRECISIONS)
def test_generator_gradients_are_those_of_dense_rows(preset, name):
    config = step_config(preset, game__weight=0.5, **NO_DROPOUT)
    items = np.random.default_rng(3).integers(N_ITEMS, size=(2, len(batch_users(config, name))))

    def structured(generator, game, batch):
        share = game.share._replace(batch=batch)
        return generator_loss(game.setup, game.embed(generator), game.params, share)[0]

    def dense(generator, game, batch):
        embeddings = game.embed(generator)
        rest, _ = recommendation_losses(game.setup, embeddings, batch)
        fake = game.dense_fake(embeddings)
        return rest - 0.5 * jnp.mean(game.dense_score(game.params, fake, game.key))

    def value_and_gradients(loss, type_name):
        with precision(type_name) as dtype:
            game = Game(config, dtype, batch_users(config, name))
            batch = Batch(game.users, *jnp.asarray(items, jnp.int32))
            return jax.jit(jax.value_and_grad(lambda x: loss(x, game, batch)))(game.state.generator)

    loss, gradients = value_and_gradients(structured, name)
    expected_loss, expected = value_and_gradients(dense, "float64")

    assert_close(loss, expected_loss, TOLERANCE[name])
    assert_close(gradients, expected, TOLERANCE[name], floor=0.1)
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(gradients["encoder"]))


def test_gradient_penalty_is_that_of_each_rows_own_gradient():
    config = step_config(critic__dropout=(0.0, 0.0))
    game, key = Game(config, jnp.float32), jax.random.key(0)
    rows = jnp.asarray(np.random.default_rng(1).normal(size=(5, N_ITEMS)), jnp.float32)

    critic, kernel = critic_module(game.setup), game.params["first_kernel"]

    penalty = jax.jit(lambda x, gram: gradient_penalty(critic, game.params, x, gram, key))(
        rows @ kernel, kernel.T @ kernel
    )

    one_row = jax.jit(jax.grad(lambda row: game.dense_score(game.params, row[None, :], key)[0]))
    norms = np.array([np.linalg.norm(one_row(row)) for row in rows])
    assert float(penalty) == pytest.approx(np.mean((norms - 1) ** 2), rel=1e-5)


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("all_params_zero", [False, True])
def test_gradient_penalty_is_finite_at_zero_projections(norm, all_params_zero):
    config = step_config(critic__norm=norm).critic
    critic, key = Critic(N_ITEMS, config), jax.random.key(0)
    zeros = jnp.zeros((4, config.hidden[0]))
    params = critic.init(key, zeros, True)["params"]
    if all_params_zero:
        params = jax.tree.map(jnp.zeros_like, params)

    penalty, gradients = jax.jit(
        jax.value_and_grad(
            lambda params: gradient_penalty(
                critic, params, zeros, params["first_kernel"].T @ params["first_kernel"], key
            )
        )
    )(params)

    assert np.isfinite(penalty)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    if all_params_zero:
        assert float(penalty) == 1


def test_squared_norms_and_their_gradients():
    rng = np.random.default_rng(0)
    delta, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((5, 4), (7, 4)))
    pull = jnp.asarray(rng.normal(size=5), jnp.float32)
    value, transpose = jax.vjp(lambda d, w: squared_norms(d, w.T @ w), delta, kernel)
    rows, expected_transpose = jax.vjp(lambda d, w: jnp.sum((d @ w.T) ** 2, axis=1), delta, kernel)
    assert_close(value, rows, 1e-6)
    assert_close(transpose(pull), expected_transpose(pull), 1e-5)


def test_adversarial_loss_is_minus_the_mean_score():
    game = Game(CONFIGS["paper"], jnp.float32)

    @jax.jit
    def structured_and_dense(generator):
        embeddings = game.embed(generator)
        scores = game.dense_score(game.params, game.dense_fake(embeddings), game.key)
        return scores, adversarial_loss(game.setup, game.params, embeddings, game.share)

    scores, loss = structured_and_dense(game.state.generator)
    assert float(loss) == pytest.approx(-float(np.mean(scores)), rel=1e-5)


def test_the_critic_learns_to_tell_real_from_generated_rows():
    config = step_config(optim__critic_lr=1e-2, critic__hidden=(32, 16))
    setup, _, inputs, state = step_problem(config)
    key = jax.random.key(0)

    def gaps(state):
        critic = critic_module(setup).init(key, jnp.zeros((2, 32)), True)
        state = state._replace(critic=critic["params"])
        draws = draw(setup, jax.random.fold_in(key, 0), inputs)  # as in a run's first step
        share = share_batch(setup, draws, inputs)
        embeddings = forward(setup, state.generator, state.learned, inputs, draws.critic_forward)

        def step(state, index):
            dropout = jax.random.fold_in(draws.game.dropout, index)
            fresh = share._replace(game=share.game._replace(dropout=dropout))
            gradients, metrics = critic_gradients(setup, state, embeddings, fresh)
            gap = metrics["score_real"] - metrics["score_fake"]
            return apply_critic(setup, state, gradients), gap

        return jax.lax.scan(step, state, jnp.arange(150))[1]

    values = jax.jit(gaps)(state)
    first, last = np.mean(values[:10]), np.mean(values[-10:])
    assert last > 0.2
    assert last > first + 0.2


def test_the_game_moves_the_generator():
    def one_step(weight):
        config = step_config(game__weight=weight, **NO_DROPOUT)
        setup, _, inputs, state = step_problem(config)
        draws = draw(setup, jax.random.key(0), inputs)
        return state, *jax.jit(lambda state: train_step(setup, state, draws, inputs))(state)

    (start_without, without, quiet), (start, with_game, loud) = one_step(0.0), one_step(0.5)

    def encoders(state):
        leaves = jax.tree.leaves(state.generator["encoder"])
        return np.concatenate([np.asarray(leaf).ravel() for leaf in leaves])

    np.testing.assert_array_equal(encoders(start_without), encoders(start))
    assert np.abs(encoders(with_game) - encoders(without)).max() > 1e-5
    assert "adversarial" in loud
    assert "adversarial" not in quiet
    assert float(quiet["bpr"]) == pytest.approx(float(loud["bpr"]), rel=1e-6)
    assert np.any(with_game.critic["first_kernel"] != start.critic["first_kernel"])


@pytest.mark.parametrize(
    ("weight", "kind", "has_critic"),
    [(0.5, "adversarial", True), (0.0, "adversarial", False), (0.5, "edge_likelihood", False)],
)
def test_there_is_no_critic_where_no_game_is_played(weight, kind, has_critic):
    setup, _, inputs, state = step_problem(step_config(game__weight=weight, game__kind=kind))

    started = jax.eval_shape(setup.init, jax.random.key(0), inputs)
    stepped, metrics = jax.eval_shape(setup.step, state, jax.random.key(1), inputs)

    for of_run in (started, stepped):
        assert (of_run.critic is not None) == has_critic
        assert (of_run.critic_opt is not None) == has_critic
    assert ("critic_loss" in metrics) == has_critic
    assert jax.tree.structure(stepped) == jax.tree.structure(started)
