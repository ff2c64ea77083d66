"""CrossView behind the contract of `mmssl_jax/method.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mmssl_jax.config import Config, ConfigError
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.bipartite import observed_graph
from mmssl_jax.graph.item_graph import (
    centred,
    item_features,
    item_presence,
    modality_neighbours,
)
from mmssl_jax.graph.rows import interaction_rows, most_batch_edges
from mmssl_jax.layout import Rows
from mmssl_jax.method import Curves, Inductive, Metrics, Variant, Vectors, Views
from mmssl_jax.methods.crossview.config import CrossViewConfig
from mmssl_jax.methods.crossview.game import (
    Board,
    Player,
    adversarial_loss,
    board,
    critic_step,
    draw_share,
    new_player,
)
from mmssl_jax.methods.crossview.inductive import (
    Knowledge,
    item_vectors,
    knowledge_of,
    user_vectors,
)
from mmssl_jax.methods.crossview.model import (
    Catalogue,
    Embeddings,
    Inputs,
    Loss,
    Params,
    batch_loss,
    embeddings,
    view_length,
)
from mmssl_jax.methods.crossview.parts import parts
from mmssl_jax.methods.trained import Step, Trained
from mmssl_jax.methods.views import co_users, content_hypergraph
from mmssl_jax.optimizers import Descent


class Carried(NamedTuple):
    """The average of the parameters over steps, and the critic; () for what is not wanted."""

    average: Params | tuple[()]
    critic: Player | tuple[()]


@dataclass(frozen=True)
class CrossView(Trained):
    """Interactions, and two views beside them, held together by contrast."""

    TITLE: ClassVar[str] = "CrossView"
    CONFIG: ClassVar[type[Config]] = CrossViewConfig
    ROWS: ClassVar[Rows] = {
        "means/*": None,  # whatever a modality is called
        **dict.fromkeys(("*users", "*degree", "*inverse_sum", "*interactions"), "users"),
        **dict.fromkeys(
            ("*items", "features/*", "view_length", "content", "*first_kernel"), "items"
        ),
    }
    SPACE: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "softmax.user_norm": {"choices": [0.0, 0.5, 1.0]},
        "softmax.item_norm": {"choices": [0.0, 0.5, 1.0]},
        "softmax.temperature": {"low": 0.1, "high": 2.0, "log": True},
        "contrast.items": {"low": 0.03, "high": 0.5, "log": True},
        "view.taste_weight": {"choices": [0.0, 0.5, 1.0]},
    }
    STUDIES: ClassVar[Mapping[str, Callable[..., list[Variant]]]] = {"parts": parts}
    INDUCTIVE: ClassVar[Inductive | None] = Inductive(
        Knowledge, knowledge_of, user_vectors, item_vectors
    )
    CURVES: ClassVar[tuple[Curves, ...]] = (
        Curves("The losses", (("Contrasts", ("user_contrast", "item_contrast")),)),
        Curves(
            "The adversarial game",
            (
                ("Critic scores", ("score_real", "score_fake")),
                ("gradient_penalty", ("gradient_penalty",)),
            ),
        ),
    )
    NEEDS_FEATURES: ClassVar[bool] = True
    WATCHED: ClassVar[tuple[str, ...]] = ("ranking", "loss", "user_contrast", "item_contrast")

    game_edges: int = 0  # most interactions of one device's users in the game

    @classmethod
    def build(cls, config: CrossViewConfig, dataset: Dataset, n_devices: int = 1) -> Self:
        """The method for a dataset, with a batch shared by `n_devices`."""
        for name, shared in (
            ("contrast.nodes", config.contrast.nodes),
            ("game.users", config.game.users),
        ):
            if shared % n_devices:
                raise ConfigError(
                    f"{name} is {shared}, which {n_devices} devices cannot share equally; "
                    f"use a multiple of {n_devices}, or set parallel.devices"
                )
        degree = np.bincount(dataset.train[:, 0], minlength=dataset.n_users)
        game_edges = most_batch_edges(degree, config.game.users, n_devices, False)
        bound = super().build(config, dataset, n_devices)
        return replace(bound, game_edges=game_edges)

    def inputs(self, dataset: Dataset) -> Inputs:
        """The graphs of interactions and of content."""
        size = dataset.n_users, dataset.n_items
        neighbours = modality_neighbours(
            dataset, self.config.view.neighbours, True, self.config.data, centre=True
        )
        degree = np.bincount(dataset.train[:, 1], minlength=dataset.n_items)
        raw, present = item_features(dataset), item_presence(dataset)
        features = {m: centred(raw[m], present[m]) for m in raw}
        return Inputs(
            observed_graph(dataset.train, *size, "symmetric"),
            interaction_rows(dataset.train, *size),
            co_users(dataset.train, *size),
            content_hypergraph(neighbours),
            {m: rows for m, (rows, _) in features.items()},
            {m: mean for m, (_, mean) in features.items()},
            view_length(self.config.view, jnp.asarray(degree, jnp.float32)),
        )

    def parameters(self, key: Key[Array, ""], inputs: Inputs) -> Params:
        """Xavier-normal embeddings."""
        xavier, dim = nn.initializers.xavier_normal(), self.config.view.dim
        heights = (self.n_users, self.n_items) * 2
        keys = jax.random.split(key, len(heights))
        return Params(*(xavier(k, (n, dim)) for k, n in zip(keys, heights, strict=True)))

    def carry(self, key: Key[Array, ""], params: Params, inputs: Inputs) -> Carried:
        """The average of the parameters over steps, and the critic; each where it is wanted."""
        average = jax.tree.map(jnp.copy, params) if self.config.averaging else ()
        return Carried(average, new_player(self.board(), key) if self.config.game.weight else ())

    def loss(self, params: Params, step: Step, inputs: Inputs) -> tuple[Float[Array, ""], Metrics]:
        """The ranking loss, the contrasts, and the model's side of the game."""
        loss_key, game_key = jax.random.split(step.key)
        embedded = embeddings(self.config.view, params, inputs, self.catalogue)
        loss = Loss(self.config, self.catalogue, self.axis)
        total, parts = batch_loss(loss, params, embedded, step._replace(key=loss_key), inputs.rows)
        weight = self.config.game.weight
        if weight:
            share = draw_share(self.board(), game_key, inputs.rows)
            against = adversarial_loss(self.board(), step.carried.critic, embedded, share)
            total += weight * against
            parts |= {"adversarial": against, "loss": total}
        return total, parts

    def step(self, state: Descent, key: Key[Array, ""], inputs: Inputs) -> tuple[Descent, Metrics]:
        """The critic's step, if there is a game; one Adam step on a batch; the average renewed."""
        model_key, critic_key = jax.random.split(key)
        carried, of_critic = state.carried, Metrics()
        if self.config.game.weight:
            embedded = embeddings(self.config.view, state.params, inputs, self.catalogue)
            share = draw_share(self.board(), critic_key, inputs.rows)
            critic, of_critic = critic_step(self.board(), carried.critic, embedded, share)
            carried = carried._replace(critic=critic)
        after, metrics = super().step(state._replace(carried=carried), model_key, inputs)
        kept = self.config.averaging
        if kept:
            average = jax.tree.map(
                lambda old, new: kept * old + (1 - kept) * new, carried.average, after.params
            )
            after = after._replace(carried=carried._replace(average=average))
        return after, metrics | of_critic

    @property
    def catalogue(self) -> Catalogue:
        """Users and items, and how their rows are spread."""
        return Catalogue(self.n_users, self.n_items, self.nodes)

    def board(self) -> Board:
        """What is static in the game."""
        return board(self.config, self.catalogue, self.game_edges, self.axis)

    def embed(self, state: Descent, inputs: Inputs) -> Vectors:
        """The vectors that rank."""
        return self.embedded(state, inputs).vectors

    def embedded(self, state: Descent, inputs: Inputs) -> Embeddings:
        """Vectors and views of the parameters that rank."""
        return embeddings(self.config.view, self.ranking_params(state), inputs, self.catalogue)

    def ranking_params(self, state: Descent) -> Params:
        """The parameters that rank: their average over steps, or the last ones."""
        params: Params = state.carried.average if self.config.averaging else state.params
        return params

    def views(self, state: Descent, inputs: Inputs) -> Views:
        """Maps of the items' vectors and of their view."""
        embedded = self.embedded(state, inputs)
        maps = {"final embedding": embedded.vectors.items, "view: content": embedded.views.items}
        return Views({}, maps)

    @property
    def note(self) -> str:
        """Nothing: there are no modality weights."""
        return ""
