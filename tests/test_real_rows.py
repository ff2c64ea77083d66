import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import override
from mmssl_jax.methods.mmssl import reference
from mmssl_jax.methods.mmssl.config import GameConfig, preset_config
from mmssl_jax.methods.mmssl.game.factored_rows import project_rows
from mmssl_jax.methods.mmssl.game.real_rows import (
    Noise,
    dense_soft_rows,
    gumbel,
    noise_is_rounding,
    observed_dominate,
    real_rows,
    soft_form,
    sparse_soft_rows,
    uniform_at_edges,
    uniform_block,
)
from mmssl_jax.methods.mmssl.game.unit_rows import unit_scores
from tests.problems import (
    N_ITEMS,
    N_USERS,
    PRECISIONS,
    TOLERANCE,
    assert_close,
    edges_of_batch,
    interaction_matrix,
    precision,
)

MATRIX = interaction_matrix()
EVERYBODY = np.random.default_rng(0).permutation(N_USERS)
SAMPLERS = EVERYBODY[MATRIX[EVERYBODY].any(axis=1)]
WIDTH, FIRST_ROW = 6, 2
RELEASED_TIKTOK = override(
    preset_config("released"), {"game.temperature": 0.002, "game.gumbel_scale": 1e-5}
).game


def case(batch, dtype, seed=0):
    """User and item vectors, kernel, edges, and noise of a whole batch around this one."""
    rng = np.random.default_rng(seed)
    users, items = rng.normal(size=(len(batch), 5)), rng.normal(size=(N_ITEMS, 5))
    kernel = rng.normal(size=(N_ITEMS, WIDTH))
    uniform = rng.uniform(size=(FIRST_ROW + len(batch) + 1, N_ITEMS)).astype(np.float32)
    vectors = (jnp.asarray(x, dtype) for x in (users, items, kernel))
    noise = Noise(jnp.asarray(uniform, dtype), jnp.int32(FIRST_ROW))
    return *vectors, noise, edges_of_batch(MATRIX, batch)


def both_with_gradients(structured, dense, users, items, kernel):
    """(product, gradients) of two functions of (users, items, kernel), under random cotangents."""
    pull = np.random.default_rng(9).normal(size=(users.shape[0], WIDTH))

    def with_gradients(function):
        product, transpose = jax.vjp(function, users, items, kernel)
        return product, transpose(jnp.asarray(pull, product.dtype))

    return jax.jit(lambda: (with_gradients(structured), with_gradients(dense)))()


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("mask_observed", [False, True])
def test_generated_rows(mask_observed, name):
    with precision(name) as dtype:
        users, items, kernel, _, edges = case(EVERYBODY, dtype)
        users = users.at[3].set(0.0)  # a zero row stays zero, with finite gradients

        def structured(users, items, kernel):
            rows = unit_scores(users, items, edges, mask_observed).rows()
            return project_rows([rows], kernel)

        def dense(users, items, kernel):
            observed = jnp.asarray(MATRIX[EVERYBODY], dtype)
            return reference.generated_rows(users, items, observed, mask_observed) @ kernel

        actual, expected = both_with_gradients(structured, dense, users, items, kernel)

    assert_close(actual, expected, TOLERANCE[name])
    product, (of_users, *_) = actual
    np.testing.assert_array_equal(product[3], np.zeros(WIDTH))
    np.testing.assert_array_equal(of_users[3], np.zeros(5))


def dense_real_rows(users, items, observed, uniform, game, mask_observed):
    """Real rows [B, I] in full, by the plain form; `observed` are the batch's 0/1 rows."""
    observed = jnp.asarray(observed, users.dtype)
    own = reference.generated_rows(users, items, observed, mask_observed)
    return reference.real_rows(observed, uniform, own, game)


# Settings of the game, and whether observed pairs are masked.
PAPER = GameConfig()
REAL_ROWS = {
    "paper": (PAPER, False),
    "paper, masked": (PAPER, True),
    "paper, no scores": (GameConfig(score_weight=0.0), False),
    "warm": (GameConfig(temperature=0.7, gumbel_scale=0.5, block_items=7), False),
    "warm, no scores": (
        GameConfig(temperature=0.7, gumbel_scale=0.5, score_weight=0.0, block_items=7),
        True,
    ),
    "released": (
        GameConfig(temperature_scope="noise", score_weight=100.0, block_items=10),
        True,
    ),
    "noise divided": (
        GameConfig(temperature_scope="noise", temperature=0.5, gumbel_scale=0.3),
        False,
    ),
}


def project_both_ways(game, mask_observed, batch, dtype):
    users, items, kernel, noise, edges = case(batch, dtype)

    def structured(users, items, kernel):
        scores = unit_scores(users, items, edges, mask_observed)
        return project_rows([real_rows(scores, kernel, noise, game)], kernel)

    def dense(users, items, kernel):
        drawn = noise.source[FIRST_ROW : FIRST_ROW + len(batch)]
        return dense_real_rows(users, items, MATRIX[batch], drawn, game, mask_observed) @ kernel

    return both_with_gradients(structured, dense, users, items, kernel)


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize(("game", "mask_observed"), REAL_ROWS.values(), ids=REAL_ROWS)
def test_real_rows(game, mask_observed, name):
    batch = SAMPLERS if observed_dominate(game, N_ITEMS) else EVERYBODY
    with precision(name) as dtype:
        actual, _ = project_both_ways(game, mask_observed, batch, dtype)
    with precision("float64") as dtype:
        _, expected = project_both_ways(game, mask_observed, batch, dtype)

    assert_close(actual[0], expected[0], TOLERANCE[name])
    if game.score_weight:
        assert_close(actual[1], expected[1], TOLERANCE[name])
    else:
        assert_close(actual[1][2], expected[1][2], TOLERANCE[name])
        assert all(np.all(np.asarray(gradient) == 0) for gradient in actual[1][:2])


@pytest.mark.parametrize(
    ("game", "n_items", "expected"),
    [
        (preset_config("paper").game, 10**9, True),
        (preset_config("released").game, 23, False),
        (GameConfig(temperature=0.02), 10**6, True),
        (GameConfig(temperature=0.05), 23, False),
        (GameConfig(temperature=1.0), 23, False),
        (GameConfig(gumbel_scale=1.0), 23, False),
    ],
)
def test_observed_dominate(game, n_items, expected):
    assert observed_dominate(game, n_items) is expected


@pytest.mark.parametrize("game", [PAPER, GameConfig(temperature=0.02, gumbel_scale=1e-3)])
def test_sparse_soft_rows_are_the_dense_ones_where_observed_items_dominate(game):
    assert observed_dominate(game, N_ITEMS)
    users, items, kernel, noise, edges = case(SAMPLERS, jnp.float32)
    scores = unit_scores(users, items, edges, False)

    sparse = sparse_soft_rows(scores, noise, game)
    dense = dense_soft_rows(scores, kernel, noise, game)

    assert_close(sparse[1:], dense[1:], 1e-6)
    sparse_product, dense_product = (project_rows([soft.rows], kernel) for soft in (sparse, dense))
    assert_close(sparse_product, dense_product, 1e-6)


@pytest.mark.parametrize("name", PRECISIONS)
def test_observed_real_rows_are_the_unit_training_rows(name):
    game = GameConfig(real_rows="observed")
    with precision(name) as dtype:
        users, items, kernel, noise, edges = case(EVERYBODY, dtype)
        observed = MATRIX[EVERYBODY]

        def structured(users, items, kernel):
            scores = unit_scores(users, items, edges, False)
            return project_rows([real_rows(scores, kernel, noise, game)], kernel)

        def dense(users, items, kernel):
            return jnp.asarray(observed / np.sqrt(np.maximum(observed.sum(1), 1))[:, None]) @ kernel

        actual, expected = both_with_gradients(structured, dense, users, items, kernel)
    assert_close(actual[0], expected[0], TOLERANCE[name])
    assert_close(actual[1][2], expected[1][2], TOLERANCE[name])


@pytest.mark.parametrize(
    ("game", "n_items", "dtype", "expected"),
    [
        (RELEASED_TIKTOK, 6_710, "float32", True),
        (RELEASED_TIKTOK, 6_710, "float64", False),
        (RELEASED_TIKTOK, 23, "float32", False),
        (GameConfig(temperature_scope="noise", score_weight=0.0), 6_710, "float32", False),
        (GameConfig(temperature_scope="noise", score_weight=1.0), 6_710, "float32", False),
    ],
)
def test_noise_is_rounding(game, n_items, dtype, expected):
    assert noise_is_rounding(game, n_items, dtype) is expected


@pytest.mark.parametrize("mask_observed", [True, False])
def test_smooth_real_rows_are_the_dense_ones_where_the_noise_is_rounding(mask_observed):
    rng, n_items = np.random.default_rng(2), 6_710
    observed = (rng.random((4, n_items)) < [[0.0002], [0.001], [0.01], [0.1]]).astype(np.int32)
    users, items, kernel = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((4, 6), (n_items, 6), (n_items, WIDTH))
    )
    edges = edges_of_batch(observed, np.arange(4))
    uniform = jnp.asarray(rng.uniform(size=(4, n_items)), jnp.float32)
    assert soft_form(RELEASED_TIKTOK, n_items, jnp.float32) == "smooth"

    def structured(users, items, kernel):
        scores = unit_scores(users, items, edges, mask_observed)
        noise = Noise(uniform, jnp.int32(0))
        return project_rows([real_rows(scores, kernel, noise, RELEASED_TIKTOK)], kernel)

    def dense(users, items, kernel):
        rows = dense_real_rows(users, items, observed, uniform, RELEASED_TIKTOK, mask_observed)
        return rows @ kernel

    actual, expected = both_with_gradients(structured, dense, users, items, kernel)
    assert_close(actual, expected, 1e-5)


def test_a_user_without_interactions_has_a_finite_sparse_row():
    # Such users are never drawn; the row is the model's own scores alone.
    users, items, kernel, noise, edges = case(EVERYBODY, jnp.float32)
    row = int(np.flatnonzero(EVERYBODY == 0)[0])

    def product(users, items):
        scores = unit_scores(users, items, edges, False)
        blocks = [real_rows(scores, kernel, noise, PAPER), scores.rows()]
        of_real, of_scores = jnp.split(project_rows(blocks, kernel), 2)
        return of_real[row], of_scores[row]

    (of_real, of_scores), transpose = jax.vjp(product, users, items)
    np.testing.assert_allclose(of_real, of_scores, rtol=1e-5)
    pull, nothing = jnp.ones(WIDTH), jnp.zeros(WIDTH)
    assert_close(transpose((pull, nothing)), transpose((nothing, pull)), 1e-5)


def test_gumbel_has_its_formula_and_its_bounds():
    uniform = np.random.default_rng(0).uniform(size=1000).astype(np.float32)
    expected = -np.log(-np.log(uniform.astype(float) + 1e-8) + 1e-8)
    np.testing.assert_allclose(gumbel(jnp.asarray(uniform)), expected, rtol=1e-4, atol=1e-5)
    ends = gumbel(jnp.asarray([0.0, 1.0]))
    assert -2.92 < float(ends[0]) < -2.91 < 18.42 < float(ends[1]) < 18.43


def test_noise_from_a_key_belongs_to_rows_of_the_whole_batch():
    key, edges = jax.random.key(3), edges_of_batch(MATRIX, SAMPLERS)
    whole = np.asarray(uniform_at_edges(Noise(key, jnp.int32(0)), edges))
    rows = np.asarray(edges.row)
    later = edges_of_batch(MATRIX, SAMPLERS[3:])
    share = np.asarray(uniform_at_edges(Noise(key, jnp.int32(3)), later))

    n_edges = int(later.mask.sum())
    np.testing.assert_array_equal(share[:n_edges], whole[rows >= 3][:n_edges])
    real = whole[: int(edges.mask.sum())]
    assert len(np.unique(real)) > 0.99 * len(real)


def test_noise_of_a_block_from_a_key_is_uniform_and_its_own():
    noise = Noise(jax.random.key(4), jnp.int32(0))
    blocks = [np.asarray(uniform_block(noise, 50, first, 40)) for first in (0, 40)]
    share = uniform_block(noise._replace(first_row=jnp.int32(20)), 30, 40, 40)

    np.testing.assert_array_equal(share, blocks[1][20:])
    np.testing.assert_array_equal(uniform_block(noise, 50, 0, 80), np.concatenate(blocks, axis=1))
    together = np.concatenate(blocks).ravel()
    assert len(np.unique(together)) > 0.99 * together.size
    assert abs(together.mean() - 0.5) < 0.02
    assert abs(together.var() - 1 / 12) < 0.005


def test_injected_noise_is_cut_into_blocks():
    uniform = jnp.asarray(np.random.default_rng(0).uniform(size=(4, N_ITEMS)), jnp.float32)
    noise = Noise(uniform, jnp.int32(1))
    cut = np.concatenate([uniform_block(noise, 2, first, 6) for first in range(0, 24, 6)], axis=1)
    np.testing.assert_array_equal(cut[:, :N_ITEMS], np.asarray(uniform)[[1, 2]])
