"""CrossView behind the contract of `mmssl_jax/method.py`."""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.bipartite import observed_graph
from mmssl_jax.graph.item_graph import (
    centred,
    item_features,
    item_presence,
    modality_neighbours,
)
from mmssl_jax.graph.rows import interaction_rows
from mmssl_jax.method import Curves, Inductive, Metrics, Vectors, Views
from mmssl_jax.methods.crossview.config import CrossViewConfig
from mmssl_jax.methods.crossview.inductive import (
    Knowledge,
    item_vectors,
    knowledge_of,
    user_vectors,
)
from mmssl_jax.methods.crossview.model import Inputs, Params, batch_loss, embeddings
from mmssl_jax.methods.trained import Step, Trained
from mmssl_jax.methods.views import co_users, content_hypergraph
from mmssl_jax.optimizers import Descent


@dataclass(frozen=True)
class CrossView(Trained):
    """Interactions, and two views beside them, held together by contrast."""

    TITLE: ClassVar[str] = "CrossView"
    CONFIG: ClassVar[type[Config]] = CrossViewConfig
    INDUCTIVE: ClassVar[Inductive | None] = Inductive(
        Knowledge, knowledge_of, user_vectors, item_vectors
    )
    CURVES: ClassVar[tuple[Curves, ...]] = (
        Curves("The losses", (("Contrasts", ("user_contrast", "item_contrast")),)),
    )
    NEEDS_FEATURES: ClassVar[bool] = True
    WATCHED: ClassVar[tuple[str, ...]] = ("ranking", "loss", "user_contrast", "item_contrast")

    def inputs(self, dataset: Dataset) -> Inputs:
        """The graphs of interactions and of content."""
        size = dataset.n_users, dataset.n_items
        neighbours = modality_neighbours(
            dataset, self.config.view.neighbours, True, self.config.data, centre=True
        )
        raw, present = item_features(dataset), item_presence(dataset)
        features = {m: centred(raw[m], present[m]) for m in raw}
        return Inputs(
            observed_graph(dataset.train, *size, "symmetric"),
            interaction_rows(dataset.train, *size),
            co_users(dataset.train, *size),
            content_hypergraph(neighbours),
            {m: rows for m, (rows, _) in features.items()},
            {m: mean for m, (_, mean) in features.items()},
        )

    def parameters(self, key: Key[Array, ""], inputs: Inputs) -> Params:
        """Xavier-normal embeddings."""
        xavier, dim = nn.initializers.xavier_normal(), self.config.view.dim
        heights = (self.n_users, self.n_items) * 2
        keys = jax.random.split(key, len(heights))
        return Params(*(xavier(k, (n, dim)) for k, n in zip(keys, heights, strict=True)))

    def carry(self, key: Key[Array, ""], params: Params, inputs: Inputs) -> Params | tuple[()]:
        """The average of the parameters over steps."""
        return jax.tree.map(jnp.copy, params) if self.config.averaging else ()

    def loss(self, params: Params, step: Step, inputs: Inputs) -> tuple[Float[Array, ""], Metrics]:
        """The ranking loss and the contrasts."""
        embedded = embeddings(self.config.view, params, inputs)
        return batch_loss(self.config, params, embedded, step, self.axis)

    def step(self, state: Descent, key: Key[Array, ""], inputs: Inputs) -> tuple[Descent, Metrics]:
        """One Adam step on a batch, and the average renewed."""
        after, metrics = super().step(state, key, inputs)
        kept = self.config.averaging
        if kept:
            average = jax.tree.map(
                lambda old, new: kept * old + (1 - kept) * new, state.carried, after.params
            )
            after = after._replace(carried=average)
        return after, metrics

    def embed(self, state: Descent, inputs: Inputs) -> Vectors:
        """The vectors that rank."""
        return embeddings(self.config.view, self.ranking_params(state), inputs).vectors

    def ranking_params(self, state: Descent) -> Params:
        """The parameters that rank: their average over steps, or the last ones."""
        params: Params = state.carried if self.config.averaging else state.params
        return params

    def views(self, state: Descent, inputs: Inputs) -> Views:
        """Maps of the items' vectors and of their view."""
        embedded = embeddings(self.config.view, self.ranking_params(state), inputs)
        maps = {"final embedding": embedded.vectors.items, "view: content": embedded.views.items}
        return Views({}, maps)

    @property
    def note(self) -> str:
        """Nothing: there are no modality weights."""
        return ""
