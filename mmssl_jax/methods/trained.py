"""What most methods share: one optimizer, one loss of a batch of triples, sizes of a dataset.

A method says what its parameters are, what its loss is and what ranks; what is here draws the
batch, takes the step, and spreads both over devices.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import jax
import optax
from jaxtyping import Array, Float, Key, PyTree

from mmssl_jax.config import Config, SamplingConfig, TrainConfig
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.layout import Rows, is_by_row
from mmssl_jax.method import Inputs, Method, Metrics, Vectors
from mmssl_jax.nodes import Nodes, own_rows
from mmssl_jax.optimizers import Descent, adamw, descend
from mmssl_jax.sampling import Batch, sample_share, steps_per_epoch


@dataclass(frozen=True)
class BenchmarkConfig(Config):
    """The recipe that public benchmarks train their methods by, as defaults: batches of 2,048
    interactions, negatives among the items with a training interaction, Adam 1e-3, patience 20."""

    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(2048, "interaction", "trained")
    )
    train: TrainConfig = field(default_factory=lambda: TrainConfig(patience=20))


class Step(NamedTuple):
    """What a loss is computed on besides the parameters.

    key: of this step alone, equal on all devices. carried: what the state carries along.
    """

    batch: Batch
    key: Key[Array, ""]
    carried: PyTree


def of_batch(
    vectors: Vectors, batch: Batch, nodes: Nodes | None = None
) -> tuple[Float[Array, "B D"], ...]:
    """The vectors of a batch's users, positives and negatives."""
    users, items = vectors
    return (
        own_rows(users, batch.users, nodes),
        own_rows(items, batch.positives, nodes),
        own_rows(items, batch.negatives, nodes),
    )


@dataclass(frozen=True)
class Trained(Method):
    """A method that one optimizer trains, with the sizes of its dataset bound.

    The inputs of a method have a field `rows`, from which batches are drawn. A method defines
    `inputs`, `parameters`, `loss` and `embed`, and where it needs to, `carry` and `start_epoch`.

    ROWS: as in `method.RowSpread`, of a method whose rows may be spread; empty for others.
    """

    ROWS: ClassVar[Rows] = {}

    config: Any
    n_users: int
    n_items: int
    steps_per_epoch: int
    axis: str | None = None
    nodes: Nodes | None = None

    @classmethod
    def build(cls, config: Any, dataset: Dataset, n_devices: int = 1) -> Self:
        """The method for a dataset."""
        del n_devices  # a device's share of the batch is cut where it is drawn
        steps = steps_per_epoch(len(dataset.train), config.sampling.batch_size)
        return cls(config, dataset.n_users, dataset.n_items, steps)

    def parameters(self, key: Key[Array, ""], inputs: Inputs) -> PyTree:
        """The parameters before the first step."""
        raise NotImplementedError

    def carry(self, key: Key[Array, ""], params: PyTree, inputs: Inputs) -> PyTree:
        """What a state carries along besides parameters and moments, before the first epoch."""
        del key, params, inputs
        return ()

    def loss(self, params: PyTree, step: Step, inputs: Inputs) -> tuple[Float[Array, ""], Metrics]:
        """The loss on this device's share of a batch, and what is logged."""
        raise NotImplementedError

    def init(self, key: Key[Array, ""], inputs: Inputs) -> Descent:
        """The state before the first step."""
        params_key, carried_key, _ = jax.random.split(key, 3)  # the third is the run's
        params = self.parameters(params_key, inputs)
        carried = self.carry(carried_key, params, inputs)
        return Descent(params, self.optimizer().init(params), carried)

    def step(self, state: Descent, key: Key[Array, ""], inputs: Inputs) -> tuple[Descent, Metrics]:
        """One Adam step on a batch of triples."""
        batch_key, loss_key = jax.random.split(key)
        batch = sample_share(self.config.sampling, batch_key, inputs.rows, self.n_items, self.axis)
        batch = batch._replace(users=inputs.rows.of_users(batch.users))
        step = Step(batch, loss_key, state.carried)
        return descend(
            lambda params: self.loss(params, step, inputs),
            state,
            self.optimizer(),
            self.axis,
            None if self.nodes is None else is_by_row(state.params, self.ROWS),
        )

    def graph_edges(self) -> int:
        """0: there are no graphs in the state."""
        return 0

    def learned(self, state: Descent) -> PyTree:
        """The parameters."""
        return state.params

    def optimizer(self) -> optax.GradientTransformation:
        """Adam, with the shared settings of `optim`."""
        return adamw(self.config.optim, self.steps_per_epoch)
