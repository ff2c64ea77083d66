"""One training step: critic, then generator, then the learned graphs; and a scan over an epoch.

Every function is a pure map of the state. Randomness comes in as `Draws`, so that a step can be
replayed with other draws; `axis` names the devices the batch is shared by, or is None.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from mmssl_jax.config import Config
from mmssl_jax.graph.rows import BatchEdges, batch_edges
from mmssl_jax.graph.structure import (
    append_edges,
    join_edges,
    learned_edges_of_all,
    learned_edges_of_batch,
    learned_graph,
    pad_edges,
    top_k_items,
)
from mmssl_jax.losses.adversarial import GameDraws, critic_loss
from mmssl_jax.losses.total import generator_loss
from mmssl_jax.model.mmssl import Embeddings
from mmssl_jax.model.norms import unit_rows
from mmssl_jax.parallel import device_index, gather_over, mean_over, share_of
from mmssl_jax.training.optimizers import critic_optimizer, generator_optimizer
from mmssl_jax.training.sampling import Batch, sample_batch
from mmssl_jax.training.state import (
    Inputs,
    Sizes,
    TrainState,
    critic_module,
    generator_module,
    learned_edges_length,
)

Metrics = dict[str, Float[Array, ""]]


class Draws(NamedTuple):
    """All randomness of one step, for the whole batch of all devices."""

    batch: Batch
    game: GameDraws
    critic_forward: Key[Array, ""]  # feature dropout of the critic's forward pass
    generator_forward: Key[Array, ""]
    generator_critic: Key[Array, ""]  # the critic's dropout in the generator's loss


class Share(NamedTuple):
    """One device's part of a batch."""

    batch: Batch
    alpha: Float[Array, "B M"]
    edges: BatchEdges
    first_row: Int[Array, ""]


def draw(
    key: Key[Array, ""], step: Int[Array, ""], inputs: Inputs, config: Config, sizes: Sizes
) -> Draws:
    """The draws of a step; they depend on the key and the step alone."""
    keys = jax.random.split(jax.random.fold_in(key, step), 7)
    batch_size, n_modalities = config.sampling.batch_size, len(inputs.features)
    return Draws(
        batch=sample_batch(keys[0], inputs.rows, batch_size, sizes.n_items, config.sampling.by),
        game=GameDraws(
            noise=keys[1],
            alpha=jax.random.uniform(keys[2], (batch_size, n_modalities)),
            dropout=keys[3],
        ),
        # The same masks make both forward passes the same computation, which is then done once.
        critic_forward=keys[4],
        generator_forward=keys[4] if config.train.shared_forward else keys[5],
        generator_critic=keys[6],
    )


def forward(
    params: dict,
    learned: dict,
    inputs: Inputs,
    config: Config,
    sizes: Sizes,
    dropout: Key[Array, ""] | None,
) -> Embeddings:
    """The generator's embeddings; without a dropout key, in evaluation mode."""
    rngs = None if dropout is None else {"dropout": dropout}
    embeddings: Embeddings = generator_module(config, sizes).apply(  # type: ignore[assignment]
        {"params": params}, inputs.features, inputs.observed, learned, dropout is None, rngs=rngs
    )
    return embeddings


def share_batch(draws: Draws, inputs: Inputs, sizes: Sizes, axis: str | None) -> Share:
    """This device's part of the batch, with its users' interactions."""
    batch, alpha = share_of((draws.batch, draws.game.alpha), axis)
    return Share(
        batch=batch,
        alpha=alpha,
        edges=batch_edges(inputs.rows, batch.users, sizes.batch_edges),
        first_row=device_index(axis) * batch.users.shape[0],
    )


def on_this_device(key: Key[Array, ""], axis: str | None) -> Key[Array, ""]:
    """A key of this device's own, for masks over its share of the rows."""
    return key if axis is None else jax.random.fold_in(key, device_index(axis))


def critic_gradients(
    state: TrainState,
    share: Share,
    draws: Draws,
    inputs: Inputs,
    config: Config,
    sizes: Sizes,
    axis: str | None,
) -> tuple[dict, Metrics]:
    """Gradients of the critic's loss, the generator standing still."""
    embeddings = forward(
        state.generator, state.learned, inputs, config, sizes, draws.critic_forward
    )
    game = draws.game._replace(alpha=share.alpha, dropout=on_this_device(draws.game.dropout, axis))
    gradients, parts = jax.grad(critic_loss, has_aux=True)(
        state.critic,
        critic_module(config, sizes, axis),
        jax.lax.stop_gradient(embeddings),
        share.batch.users,
        share.edges,
        game,
        share.first_row,
        config,
    )
    return mean_over((gradients, parts), axis)


def generator_gradients(
    state: TrainState,
    share: Share,
    draws: Draws,
    inputs: Inputs,
    config: Config,
    sizes: Sizes,
    axis: str | None,
) -> tuple[dict, Metrics, Embeddings]:
    """Gradients of the generator's loss against the state's critic, and its embeddings."""

    def loss(params: dict) -> tuple[Float[Array, ""], tuple[Metrics, Embeddings]]:
        embeddings = forward(params, state.learned, inputs, config, sizes, draws.generator_forward)
        total, parts = generator_loss(
            embeddings,
            (params["user_embedding"], params["item_embedding"]),
            share.batch,
            share.edges,
            critic_module(config, sizes, axis),
            state.critic,
            on_this_device(draws.generator_critic, axis),
            config,
            axis,
        )
        return total, (parts, embeddings)

    gradients, (parts, embeddings) = jax.grad(loss, has_aux=True)(state.generator)
    return *mean_over((gradients, parts), axis), jax.lax.stop_gradient(embeddings)


def apply_critic(state: TrainState, gradients: dict, config: Config) -> TrainState:
    """The critic's Adam step."""
    updates, critic_opt = critic_optimizer(config.optim).update(
        gradients, state.critic_opt, state.critic
    )
    critic = optax.apply_updates(state.critic, updates)
    return state._replace(critic=critic, critic_opt=critic_opt)


def apply_generator(state: TrainState, gradients: dict, config: Config, sizes: Sizes) -> TrainState:
    """The generator's AdamW step."""
    updates, generator_opt = generator_optimizer(config.optim, sizes.steps_per_epoch).update(
        gradients, state.generator_opt, state.generator
    )
    generator = optax.apply_updates(state.generator, updates)
    return state._replace(generator=generator, generator_opt=generator_opt)


def similarity_vectors(
    embeddings: Embeddings, modality: str, config: Config
) -> tuple[Float[Array, "U D"], Float[Array, "I D"]]:
    """A modality's user and item vectors whose inner product is the configured similarity."""
    users, items = embeddings.feature_user[modality], embeddings.feature_item[modality]
    if config.structure.similarity == "cosine":
        return unit_rows(users), unit_rows(items)
    return users, items


def rebuild_for_all(
    state: TrainState, embeddings: Embeddings, inputs: Inputs, config: Config, sizes: Sizes
) -> TrainState:
    """Learned graphs of the top-k items of every user, from the given embeddings."""
    learned = {}
    for modality in embeddings.feature_user:
        edges = learned_edges_of_all(
            *similarity_vectors(embeddings, modality, config),
            inputs.rows if config.structure.mask_observed else None,
            sizes.k,
            config.structure.block_users,
            sizes.block_edges,
        )
        if config.structure.keep_observed:
            edges = join_edges(edges, inputs.rows)
        edges = pad_edges(edges, learned_edges_length(config, sizes))
        learned[modality] = learned_graph(edges, sizes.n_users, sizes.n_items, "receiver")
    return state._replace(learned=learned)


def collect_or_rebuild(
    state: TrainState,
    embeddings: Embeddings,
    share: Share,
    config: Config,
    sizes: Sizes,
    axis: str | None,
) -> TrainState:
    """The release's schedule: collect the batches' top-k edges, and every T-th step of an epoch
    make the collected edges the graph instead, which empties the collection."""
    step_in_epoch = state.step % sizes.steps_per_epoch
    rebuild = (step_in_epoch % config.structure.every == 0) & (step_in_epoch > 0)
    learned, pending = {}, {}
    for modality in embeddings.feature_user:
        graph, collected = state.learned[modality], state.pending[modality]
        observed = share.edges if config.structure.mask_observed else None
        of_users, of_items = similarity_vectors(embeddings, modality, config)
        top = top_k_items(of_users[share.batch.users], of_items, observed, sizes.k)
        users, top = gather_over((share.batch.users, top), axis)
        new = learned_edges_of_batch(users, top, config.structure.edge_users)

        def build(collected=collected):
            padded = pad_edges(collected, learned_edges_length(config, sizes))
            return learned_graph(padded, sizes.n_users, sizes.n_items, "receiver")

        def empty(graph=graph):
            return jax.tree.map(
                lambda leaf: (
                    jnp.zeros_like(leaf) if jnp.isdtype(leaf.dtype, "real floating") else leaf
                ),
                graph,
            )

        # Sorting is dear and an empty collection needs none.
        kind = jnp.where(rebuild, jnp.where(jnp.any(collected.mask), 2, 1), 0)
        learned[modality] = jax.lax.switch(kind, [lambda graph=graph: graph, empty, build])
        appended = append_edges(collected, new)
        pending[modality] = jax.tree.map(
            lambda emptied, longer: jnp.where(rebuild, emptied, longer),
            collected._replace(mask=jnp.zeros_like(collected.mask)),
            appended,
        )
    return state._replace(learned=learned, pending=pending)


def refresh(
    state: TrainState,
    embeddings: Embeddings,
    share: Share,
    inputs: Inputs,
    config: Config,
    sizes: Sizes,
    axis: str | None,
) -> TrainState:
    """What a step does to the learned graphs, by `structure.source` and `structure.every`."""
    with jax.named_scope("structure"):
        if config.structure.source == "batches":
            return collect_or_rebuild(state, embeddings, share, config, sizes, axis)
        if config.structure.every == 0:
            return state
        due = (state.step + 1) % config.structure.every == 0
        return jax.lax.cond(
            due,
            lambda: rebuild_for_all(state, embeddings, inputs, config, sizes),
            lambda: state,
        )


def train_step(
    state: TrainState,
    draws: Draws,
    inputs: Inputs,
    config: Config,
    sizes: Sizes,
    axis: str | None = None,
) -> tuple[TrainState, Metrics]:
    """Critic step, generator step against the new critic, learned graphs; metrics are means.

    With `game.weight` 0 there is no game and no critic step.
    """
    share = share_batch(draws, inputs, sizes, axis)
    metrics: Metrics = {}
    if config.game.weight:
        with jax.named_scope("critic_step"):
            gradients, metrics = critic_gradients(state, share, draws, inputs, config, sizes, axis)
            state = apply_critic(state, gradients, config)
    with jax.named_scope("generator_step"):
        gradients, parts, embeddings = generator_gradients(
            state, share, draws, inputs, config, sizes, axis
        )
        state = apply_generator(state, gradients, config, sizes)
    state = refresh(state, embeddings, share, inputs, config, sizes, axis)
    return state._replace(step=state.step + 1), {**metrics, **parts}


def start_epoch(state: TrainState, inputs: Inputs, config: Config, sizes: Sizes) -> TrainState:
    """Rebuilds the learned graphs at the first step of an epoch, where that is the schedule."""
    if config.structure.source == "batches" or config.structure.every:
        return state
    with jax.named_scope("structure"):
        return jax.lax.cond(
            state.step % sizes.steps_per_epoch == 0,
            lambda: rebuild_for_all(
                state,
                forward(state.generator, state.learned, inputs, config, sizes, None),
                inputs,
                config,
                sizes,
            ),
            lambda: state,
        )


def train_steps(
    state: TrainState,
    inputs: Inputs,
    config: Config,
    sizes: Sizes,
    n_steps: int,
    axis: str | None = None,
) -> tuple[TrainState, Metrics]:
    """`n_steps` steps as one scan, drawn from the state's own key; metrics are means over them."""

    def step(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        with jax.named_scope("sampling"):
            draws = draw(state.key, state.step, inputs, config, sizes)
        return train_step(state, draws, inputs, config, sizes, axis)

    state, metrics = jax.lax.scan(step, start_epoch(state, inputs, config, sizes), length=n_steps)
    return state, jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)
