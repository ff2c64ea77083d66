"""MMSSL behind the contract of `mmssl_jax/method.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Key, PyTree

from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.layout import Rows
from mmssl_jax.method import Curves, Inductive, Method, Metrics, Variant, Vectors, Views
from mmssl_jax.methods.mmssl import reference
from mmssl_jax.methods.mmssl.ablations import ablations, departures
from mmssl_jax.methods.mmssl.as_reference import plain_data, plain_draws, plain_state
from mmssl_jax.methods.mmssl.config import MMSSLConfig
from mmssl_jax.methods.mmssl.draws import draw
from mmssl_jax.methods.mmssl.inductive import Knowledge, item_vectors, knowledge_of, user_vectors
from mmssl_jax.methods.mmssl.state import (
    ROWS,
    Inputs,
    Setup,
    State,
    forward,
    init_state,
    make_inputs,
    problem_sizes,
)
from mmssl_jax.methods.mmssl.step import start_epoch, train_step

ALL_ALIKE = "With model.attention_values queries all modalities weigh alike, by construction."


@dataclass(frozen=True)
class MMSSL(Setup, Method):
    """Multi-modal self-supervised learning for recommendation, both presets."""

    TITLE: ClassVar[str] = "MMSSL"
    CONFIG: ClassVar[type[Config]] = MMSSLConfig
    INDUCTIVE: ClassVar[Inductive | None] = Inductive(
        Knowledge, knowledge_of, user_vectors, item_vectors
    )
    WATCHED: ClassVar[tuple[str, ...]] = (
        "bpr",
        "generator_loss",
        "critic_loss",
        "gradient_penalty",
    )
    NEEDS_FEATURES: ClassVar[bool] = True
    ROWS: ClassVar[Rows] = ROWS
    RATES: ClassVar[tuple[str, ...]] = ("optim.lr", "optim.critic_lr", "game.weight")
    CURVES: ClassVar[tuple[Curves, ...]] = (
        Curves(
            "The adversarial game",
            (
                ("Critic scores", ("score_real", "score_fake")),
                ("critic_loss", ("critic_loss",)),
                ("gradient_penalty", ("gradient_penalty",)),
                ("adversarial", ("adversarial",)),
            ),
        ),
    )
    SCOPES: ClassVar[tuple[str, ...]] = (
        "sampling",
        "batch_edges",
        "structure",
        "encoders",
        "learned_graphs",
        "attention",
        "light_gcn",
        "fusion",
        "bpr",
        "contrastive",
        "generated_rows",
        "real_rows",
        "project_rows",
        "gradient_penalty",
        "adversarial",
        "critic_step",
        "generator_step",
        "critic_optimizer",
        "generator_optimizer",
    )
    STUDIES: ClassVar[Mapping[str, Callable[..., list[Variant]]]] = {
        "ablations": ablations,
        "departures": departures,
    }
    SPACE: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "optim.lr": {"low": 1e-5, "high": 1e-3, "log": True},
        "model.gnn_layers": {"low": 1, "high": 4},
        "loss.contrastive": {"low": 0.003, "high": 0.3, "log": True},
        "game.weight": {"low": 1e-5, "high": 1e-2, "log": True},
    }

    @classmethod
    def build(cls, config: MMSSLConfig, dataset: Dataset, n_devices: int = 1) -> "MMSSL":
        """The method for a dataset, with a batch shared by `n_devices`."""
        return cls(config, problem_sizes(dataset, config, n_devices))

    def inputs(self, dataset: Dataset) -> Inputs:
        """Features, observed graphs and rows."""
        return make_inputs(dataset, self.config)

    def init(self, key: Key[Array, ""], inputs: Inputs) -> State:
        """Both players' parameters and moments; the learned graphs are the observed one."""
        return init_state(self, key, inputs)

    def start_epoch(self, state: State, inputs: Inputs) -> State:
        """Rebuilds the learned graphs, where that is the schedule."""
        return start_epoch(self, state, inputs)

    def step(self, state: State, key: Key[Array, ""], inputs: Inputs) -> tuple[State, Metrics]:
        """Critic, then generator, then the learned graphs."""
        with jax.named_scope("sampling"):
            draws = draw(self, key, inputs)
        return train_step(self, state, draws, inputs)

    def embed(self, state: State, inputs: Inputs) -> Vectors:
        """The final embeddings."""
        embeddings = forward(self, state.generator, state.learned, inputs, None)
        return Vectors(embeddings.user, embeddings.item)

    def learned(self, state: State) -> PyTree:
        """Both players' parameters; the learned graphs are computed from these and the data."""
        return state.generator, state.critic

    def reference_step(self, state: State, key: Key[Array, ""], inputs: Inputs) -> reference.State:
        """A step of the plain form from the same state, on the same batch."""
        draws = plain_draws(draw(self, key, inputs), self.sizes.n_items)
        data = plain_data(self, inputs)
        return reference.train_step(self.config, data, plain_state(state), draws)[0]

    @property
    def note(self) -> str:
        """What a reader of the modality weights must know, or nothing."""
        return ALL_ALIKE if self.config.model.attention_values == "queries" else ""

    def views(self, state: State, inputs: Inputs) -> Views:
        """The attention's modality weights, and maps of features and final embeddings."""
        embeddings = forward(self, state.generator, state.learned, inputs, None)
        sides = {
            "users": embeddings.modality_weight_user,
            "items": embeddings.modality_weight_item,
        }
        maps = {f"feature: {m}": x for m, x in embeddings.feature_item.items()}
        return Views(
            weights={
                side: dict(zip(inputs.features, weights, strict=True))
                for side, weights in sides.items()
            },
            maps=maps | {"final embedding": embeddings.item},
        )
