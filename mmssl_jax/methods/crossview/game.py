"""CrossView's adversarial game, which is MMSSL's (methods/mmssl/game) with other generated rows.

For users drawn anew each step, a generated row holds the scores of the user's vector with the
items' view, u . q_i for all items i, normalised: what content alone says the user would take. A
real row is the user's training row, softened by Gumbel noise and the model's own scores. A critic
learns to tell them apart (WGAN-GP), and the model to make rows of the first kind that pass for the
second:

    critic:  mean c(generated) - mean c(real) + gradient penalty
    model:   ranking and contrasts - weight * mean c(generated)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from mmssl_jax.graph.rows import InteractionRows, batch_edges
from mmssl_jax.method import Metrics
from mmssl_jax.methods.crossview.config import CrossViewConfig
from mmssl_jax.methods.crossview.model import Catalogue, Embeddings
from mmssl_jax.methods.mmssl.config import MMSSLConfig, PlayersConfig
from mmssl_jax.methods.mmssl.draws import GameDraws, Share
from mmssl_jax.methods.mmssl.game import adversarial
from mmssl_jax.methods.mmssl.game.critic import hidden_widths
from mmssl_jax.methods.mmssl.model import Embeddings as GameEmbeddings
from mmssl_jax.methods.mmssl.state import Params as CriticParams
from mmssl_jax.methods.mmssl.state import (
    Setup,
    Sizes,
    critic_module,
    critic_optimizer,
    spread_params,
)
from mmssl_jax.optimizers import mean_gradients
from mmssl_jax.parallel import axis_index, pmean, share_of
from mmssl_jax.sampling import Batch, sample_users


class Player(NamedTuple):
    """The critic's parameters and the moments of its optimizer."""

    params: CriticParams
    moments: optax.OptState


class Board(NamedTuple):
    """What is static in the game: MMSSL's settings of it, and the most interactions that the users
    of one device's share have together."""

    setup: Setup
    n_rows: int
    n_edges: int


def board(config: CrossViewConfig, catalogue: Catalogue, n_edges: int, axis: str | None) -> Board:
    """The game of these sizes. n_edges: as of `most_batch_edges`."""
    of_game = MMSSLConfig(
        critic=config.critic,
        game=config.game,
        optim=PlayersConfig(critic_lr=config.game.critic_lr),
        precision=config.precision,
    )
    sizes = Sizes(catalogue.n_users, catalogue.n_items, 0, 1, 1, n_edges, 0, 0)
    return Board(Setup(of_game, sizes, axis, catalogue.nodes), config.game.users, n_edges)


def new_player(game: Board, key: Key[Array, ""]) -> Player:
    """The critic before its first step."""
    setup = game.setup
    nothing = jnp.zeros((2, hidden_widths(setup.config.critic, setup.sizes.n_items)[0]))
    params = critic_module(setup).init(key, nothing, True)["params"]
    return Player(params, critic_optimizer(setup.config).init(params))


def draw_share(game: Board, key: Key[Array, ""], rows: InteractionRows) -> Share:
    """This device's part of the users of a round, and its randomness."""
    axis, n = game.setup.axis, game.n_rows
    user_key, noise, alpha_key, dropout, generator = jax.random.split(key, 5)
    users = share_of(sample_users(user_key, rows, n), axis)
    alpha = share_of(jax.random.uniform(alpha_key, (n, 1)), axis)
    return Share(
        # The game has no use for positives and negatives.
        batch=Batch(rows.of_users(users), users, users),
        users=users,
        edges=batch_edges(rows, users, game.n_edges),
        first_row=axis_index(axis) * len(users),
        game=GameDraws(noise, alpha, dropout),
        generator_critic=generator,
    )


def seen_by_critic(embedded: Embeddings) -> GameEmbeddings:
    """The model's vectors, in the form in which the game takes them."""
    users, items = embedded.vectors
    nothing = jnp.zeros((0, 0))
    return GameEmbeddings(
        user=users,
        item=items,
        feature_user={"content": users},
        feature_item={"content": embedded.views.items},
        initial_user=nothing,
        initial_item=nothing,
        id_user={},
        id_item={},
        modality_weight_user=nothing,
        modality_weight_item=nothing,
    )


def critic_step(
    game: Board, player: Player, embedded: Embeddings, share: Share
) -> tuple[Player, Metrics]:
    """One Adam step of the critic, the model standing still."""
    setup, seen = game.setup, seen_by_critic(embedded)

    def loss(params: CriticParams) -> tuple[Float[Array, ""], Metrics]:
        return adversarial.critic_loss(setup, params, seen, share)

    gradients, parts = jax.grad(loss, has_aux=True)(player.params)
    gradients = mean_gradients(gradients, setup.axis, spread_params(setup, player.params))
    updates, moments = critic_optimizer(setup.config).update(
        gradients, player.moments, player.params
    )
    player = Player(optax.apply_updates(player.params, updates), moments)
    return player, pmean(parts, setup.axis)


def adversarial_loss(
    game: Board, player: Player, embedded: Embeddings, share: Share
) -> Float[Array, ""]:
    """The model's side: minus the mean score of its rows."""
    return adversarial.adversarial_loss(game.setup, player.params, seen_by_critic(embedded), share)
