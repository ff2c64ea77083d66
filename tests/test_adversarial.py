import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.methods.mmssl.draws import draw, share_batch
from mmssl_jax.methods.mmssl.game.adversarial import (
    GameDraws,
    adversarial_loss,
    critic_loss,
    gradient_penalty,
    squared_norms,
)
from mmssl_jax.methods.mmssl.game.critic import Critic
from mmssl_jax.methods.mmssl.losses import generator_loss, recommendation_losses
from mmssl_jax.methods.mmssl.state import critic_module
from mmssl_jax.methods.mmssl.step import apply_critic, critic_gradients, forward, train_step
from mmssl_jax.sampling import Batch
from tests.problems import (
    N_ITEMS,
    TOLERANCE,
    assert_close,
    dense_generated_rows,
    dense_real_rows,
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
    """One round of the tiny problem's game, in a float type."""

    def __init__(self, config, dtype, users=USERS):
        self.config, rng = config, np.random.default_rng(0)
        self.problem = step_problem(config, dtype=dtype)
        self.generator, self.params = self.problem.state.generator, self.problem.state.critic
        self.critic = critic_module(config, self.problem.sizes)
        self.uniform = rng.uniform(size=(len(users), N_ITEMS)).astype(np.float32)
        self.alpha = jnp.asarray(rng.uniform(size=(len(users), 2)), dtype)
        self.users, self.edges = jnp.asarray(users, jnp.int32), edges_of_batch(MATRIX, users)
        self.observed = MATRIX[users]
        self.key, self.dtype = jax.random.key(7), dtype

    def embed(self, generator):
        state, inputs, sizes = self.problem.state, self.problem.inputs, self.problem.sizes
        return forward(generator, state.learned, inputs, self.config, sizes, self.key)

    def dense_fake(self, embeddings):
        mask, users = self.config.structure.mask_observed, self.users
        modalities = embeddings.feature_user
        return jnp.concatenate(
            [
                dense_generated_rows(
                    embeddings.feature_user[m][users],
                    embeddings.feature_item[m],
                    self.observed,
                    mask,
                )
                for m in modalities
            ]
        )

    def dense_score(self, params, rows, key):
        projection = rows @ params["first_kernel"]
        return self.critic.apply({"params": params}, projection, False, rngs={"dropout": key})

    def dense_critic_loss(self, params):
        embeddings, config = self.embed(self.generator), self.config
        fake = self.dense_fake(embeddings)
        real = dense_real_rows(
            embeddings.user[self.users],
            embeddings.item,
            self.observed,
            self.uniform,
            config.game,
            config.structure.mask_observed,
        )
        real = jnp.concatenate([real, real])
        alpha = jnp.concatenate([self.alpha[:, 0], self.alpha[:, 1]])[:, None]
        fake_key, real_key, between_key = jax.random.split(self.key, 3)
        gradients = jax.grad(lambda x: jnp.sum(self.dense_score(params, x, between_key)))(
            alpha * real + (1 - alpha) * fake
        )
        # Dropout of a whole layer makes a row's gradient zero, where the norm has no derivative.
        squared = jnp.sum(gradients**2, axis=1)
        norms = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
        penalty = config.game.gradient_penalty * jnp.mean((norms - 1) ** 2)
        fake_score = jnp.mean(self.dense_score(params, fake, fake_key))
        real_score = jnp.mean(self.dense_score(params, real, real_key))
        return fake_score - real_score + penalty, penalty

    def structured_critic_loss(self, params):
        draws = GameDraws(jnp.asarray(self.uniform, self.dtype), self.alpha, self.key)
        loss, parts = critic_loss(
            params,
            self.critic,
            self.embed(self.generator),
            self.users,
            self.edges,
            draws,
            jnp.int32(0),
            self.config,
        )
        return loss, parts["gradient_penalty"]


def critic_loss_and_gradients(config, name, users, rows):
    with precision(name) as dtype:
        game = Game(config, dtype, users)
        loss = game.dense_critic_loss if rows == "dense" else game.structured_critic_loss
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(game.params)


@pytest.mark.parametrize("name", TOLERANCE)
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
@pytest.mark.parametrize("name", TOLERANCE)
def test_generator_gradients_are_those_of_dense_rows(preset, name):
    config = step_config(preset, game__weight=0.5, **NO_DROPOUT)
    items = np.random.default_rng(3).integers(N_ITEMS, size=(2, len(batch_users(config, name))))

    def structured(generator, game, batch):
        initial = generator["user_embedding"], generator["item_embedding"]
        embeddings, dropout = game.embed(generator), game.key
        return generator_loss(
            embeddings, initial, batch, game.edges, game.critic, game.params, dropout, config
        )[0]

    def dense(generator, game, batch):
        initial = generator["user_embedding"], generator["item_embedding"]
        embeddings = game.embed(generator)
        rest, _ = recommendation_losses(embeddings, initial, *batch, config.loss)
        fake = game.dense_fake(embeddings)
        return rest - 0.5 * jnp.mean(game.dense_score(game.params, fake, game.key))

    def value_and_gradients(loss, type_name):
        with precision(type_name) as dtype:
            game = Game(config, dtype, batch_users(config, name))
            batch = Batch(game.users, *jnp.asarray(items, jnp.int32))
            return jax.jit(jax.value_and_grad(lambda x: loss(x, game, batch)))(game.generator)

    loss, gradients = value_and_gradients(structured, name)
    expected_loss, expected = value_and_gradients(dense, "float64")

    assert_close(loss, expected_loss, TOLERANCE[name])
    assert_close(gradients, expected, TOLERANCE[name], floor=0.1)
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(gradients["encoder"]))


def test_gradient_penalty_is_that_of_each_rows_own_gradient():
    config = step_config(critic__dropout=(0.0, 0.0))
    game, key = Game(config, jnp.float32), jax.random.key(0)
    rows = jnp.asarray(np.random.default_rng(1).normal(size=(5, N_ITEMS)), jnp.float32)

    kernel = game.params["first_kernel"]

    penalty = jax.jit(lambda x, gram: gradient_penalty(game.critic, game.params, x, gram, key))(
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
        return scores, adversarial_loss(
            game.params, game.critic, embeddings, game.users, game.edges, game.key, False
        )

    scores, loss = structured_and_dense(game.generator)
    assert float(loss) == pytest.approx(-float(np.mean(scores)), rel=1e-5)


def test_the_critic_learns_to_tell_real_from_generated_rows():
    config = step_config(optim__critic_lr=1e-2, critic__hidden=(32, 16))
    _, _, inputs, sizes, state = step_problem(config)

    def gaps(state):
        critic = critic_module(config, sizes).init(state.key, jnp.zeros((2, 32)), True)
        state = state._replace(critic=critic["params"])
        draws = draw(state.key, state.step, inputs, config, sizes)
        share = share_batch(draws, inputs, sizes, None)
        embeddings = forward(
            state.generator, state.learned, inputs, config, sizes, draws.critic_forward
        )

        def step(state, index):
            dropout = jax.random.fold_in(draws.game.dropout, index)
            fresh = draws._replace(game=draws.game._replace(dropout=dropout))
            gradients, metrics = critic_gradients(
                state, embeddings, share, fresh, config, sizes, None
            )
            gap = metrics["score_real"] - metrics["score_fake"]
            return apply_critic(state, gradients, config), gap

        return jax.lax.scan(step, state, jnp.arange(150))[1]

    values = jax.jit(gaps)(state)
    first, last = np.mean(values[:10]), np.mean(values[-10:])
    assert last > 0.2
    assert last > first + 0.2


def test_the_game_moves_the_generator():
    inputs, sizes, state = step_problem(step_config())[2:]
    draws = draw(state.key, state.step, inputs, step_config(), sizes)

    def one_step(weight):
        config = step_config(game__weight=weight, **NO_DROPOUT)
        return jax.jit(lambda state: train_step(state, draws, inputs, config, sizes))(state)

    (without, quiet), (with_game, loud) = one_step(0.0), one_step(0.5)

    def encoders(state):
        leaves = jax.tree.leaves(state.generator["encoder"])
        return np.concatenate([np.asarray(leaf).ravel() for leaf in leaves])

    assert np.abs(encoders(with_game) - encoders(without)).max() > 1e-5
    assert "adversarial" in loud
    assert "adversarial" not in quiet
    assert float(quiet["bpr"]) == pytest.approx(float(loud["bpr"]), rel=1e-6)
    start = np.asarray(state.critic["first_kernel"])
    np.testing.assert_array_equal(without.critic["first_kernel"], start)
    assert np.any(with_game.critic["first_kernel"] != start)
