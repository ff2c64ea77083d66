"""What a recommender must offer to be trained, ranked, exported, reported, studied and tuned.

A method is a frozen dataclass that holds its settings and static sizes. Everything that JAX traces
is a pytree of its own making: the harness carries inputs and state, and never opens them. The
harness owns the step number, the run's key, the checkpoints, the early stop and the log.

Legend: U users, I items, D width of a vector, B rows of a batch, M modalities, K list length.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from mmssl_jax.config import Config
from mmssl_jax.data.dataset import Dataset
from mmssl_jax.graph.rows import BatchEdges
from mmssl_jax.nodes import Nodes

Inputs: TypeAlias = PyTree  # constant arrays: graphs, rows, features
State: TypeAlias = PyTree  # what a step changes: parameters, moments, learned graphs
Knowledge: TypeAlias = PyTree  # what vectors of new users and new items are made from
Metrics = dict[str, Float[Array, ""]]


class Vectors(NamedTuple):
    """A scorer whose score of user u and item i is users[u] . items[i]."""

    users: Float[Array, "U D"]
    items: Float[Array, "I D"]


class ItemWeights(NamedTuple):
    """A scorer whose score of user u and item i is the sum over u's training items j of w[j, i].

    w is given by rows: item j weighs `weights[j]` for the items `neighbours[j]`, 0 for all others;
    the weights of an item that is named twice add up. Without neighbours (None) `weights` is w
    itself, [I, I].
    """

    neighbours: Int[Array, "I K"] | None
    weights: Float[Array, "I K"]


Scorer = Vectors | ItemWeights


class Inductive(NamedTuple):
    """How a method makes vectors of users and items that it was not trained on.

    kind: the NamedTuple that `learn` returns, of arrays and dicts of arrays.
    learn(method, state, inputs): what the other two need of a trained state. It is saved with a
      recommender, whose vectors are then made without the dataset.
    user_vectors(config, knowledge, items): [B, D], of users who are known by their items alone; a
      row of zeros where there is none.
    item_vectors(config, knowledge, features, present): [B, D], of items known by raw features
      alone: {modality: [B, F]} and {modality: [B], who has it}, for all modalities of the run.
    """

    kind: type[Any]
    learn: Callable[[Any, State, Inputs], Knowledge]
    user_vectors: Callable[[Any, Knowledge, BatchEdges], Float[Array, "B D"]]
    item_vectors: Callable[
        [Any, Knowledge, Mapping[str, Float[Array, "B _F"]], Mapping[str, Bool[Array, " B"]]],
        Float[Array, "B D"],
    ]


@runtime_checkable
class Method(Protocol):
    """A recommender with its settings and static sizes bound; hashable, so JAX may compile by it.

    A method is a frozen dataclass that names this class as its base. Its fields are `config`, the
    static sizes that it needs, and last `axis: str | None = None`, which the harness sets where
    several devices share a batch.

    TITLE: its name in tables. CONFIG: the class of its settings. INDUCTIVE: how it makes vectors of
    new users and items, or None. WATCHED: figures that the line of an epoch shows, where they are
    logged. RATES: settings to lower when a loss is no longer finite. NEEDS_FEATURES: whether a
    dataset without features of items is refused. USES_FEATURES: whether features change what it
    learns, where it does without them too; one that needs them uses them.
    """

    TITLE: ClassVar[str]
    CONFIG: ClassVar[type[Config]]
    INDUCTIVE: ClassVar[Inductive | None] = None
    WATCHED: ClassVar[tuple[str, ...]] = ("bpr", "loss")
    RATES: ClassVar[tuple[str, ...]] = ("optim.lr",)
    NEEDS_FEATURES: ClassVar[bool] = False
    USES_FEATURES: ClassVar[bool] = False

    config: Config
    axis: str | None

    @classmethod
    def build(cls, config: Any, dataset: Dataset, n_devices: int = 1) -> Self:
        """The method for a dataset, with a batch shared by `n_devices`."""
        ...

    def inputs(self, dataset: Dataset) -> Inputs:
        """The constant arrays of all steps."""
        ...

    def init(self, key: Key[Array, ""], inputs: Inputs) -> State:
        """The state before the first step.

        Use parts 0 and 1 of `jax.random.split(key, 3)`: part 2 is the run's own, for its steps.
        """
        ...

    def start_epoch(self, state: State, inputs: Inputs) -> State:
        """What happens before the first step of an epoch, such as rebuilding a graph."""
        del inputs
        return state

    def step(self, state: State, key: Key[Array, ""], inputs: Inputs) -> tuple[State, Metrics]:
        """One step. It draws its own batch from the key, which is this step's alone.

        With an `axis` it runs on every device at once, and the new state and the metrics, which are
        scalars, must come out equal on all of them. So each device draws the whole batch, takes its
        share (`sampling.sample_share`), and means are taken over the axis (`optimizers.descend`,
        `parallel.pmean`).
        """
        ...

    def embed(self, state: State, inputs: Inputs) -> Scorer:
        """What ranks, without dropout."""
        ...

    def learned(self, state: State) -> PyTree:
        """What training learns, which is counted where methods are compared: parameters, without
        an optimizer's moments and without what is computed from the data."""
        return state


@runtime_checkable
class RowSpread(Protocol):
    """A method whose rows of users and items may be spread over devices (`nodes.py`).

    ROWS: as in `layout.Rows`, of its inputs and its state. nodes: set by the harness where rows are
    spread, as `axis` is; then a step sees its device's rows alone.
    """

    ROWS: ClassVar[Mapping[str, Literal["users", "items"] | None]]
    nodes: Nodes | None

    def graph_edges(self) -> int:
        """Places for a device's edges of a graph in the state, where the rows are spread; 0 for a
        method whose state holds none."""
        ...


def can_spread(kind: type[Method]) -> bool:
    """Whether the rows of a method's arrays can be spread over devices."""
    return bool(getattr(kind, "ROWS", {}))


def uses_features(kind: type[Method]) -> bool:
    """Whether features of items change what a method learns."""
    return kind.NEEDS_FEATURES or kind.USES_FEATURES


class Curves(NamedTuple):
    """Pictures of logged figures under one heading: each has a title and the figures it shows."""

    heading: str
    panels: tuple[tuple[str, tuple[str, ...]], ...]


class Views(NamedTuple):
    """What a report shows of a state besides its lists.

    weights: {"users" or "items": {modality: weight of each node}}, {} where there are none.
    maps: named vectors of all items, drawn in the plane.
    """

    weights: dict[str, dict[str, Float[Array, " N"]]]
    maps: dict[str, Float[Array, "I _D"]]


@runtime_checkable
class Inspectable(Protocol):
    """A method that has something to show of its inside.

    note: what a reader of the weights must know, or "".
    """

    CURVES: ClassVar[tuple[Curves, ...]]

    @property
    def note(self) -> str: ...

    def views(self, state: State, inputs: Inputs) -> Views:
        """What a report shows of a state."""
        ...


class Variant(NamedTuple):
    """Settings under a name in a study; `changes` are what sets them apart from the base.

    state_of: the variant whose trained states are evaluated under these settings, or "" for one
    that is trained under them.
    """

    name: str
    what: str
    changes: dict[str, Any]
    state_of: str = ""


BASE = "base"


@runtime_checkable
class Studied(Protocol):
    """A method with studies of its own: what happens without each of its parts."""

    STUDIES: ClassVar[Mapping[str, Callable[[Any, Sequence[str]], list[Variant]]]]


@runtime_checkable
class Tuned(Protocol):
    """A method that says which of its settings a search draws, and from where.

    SPACE: what a file of `tune/space.py` holds: {setting: {low, high, log, step} or {choices}}.
    """

    SPACE: ClassVar[Mapping[str, Mapping[str, Any]]]


@runtime_checkable
class Benchmarked(Protocol):
    """A method with a plain formulation of its step, which benchmarks time beside the fast one.

    SCOPES: named scopes of its code, by which benchmarks tell where time goes.
    """

    SCOPES: ClassVar[tuple[str, ...]]

    def reference_step(self, state: State, key: Key[Array, ""], inputs: Inputs) -> State:
        """The state after one step, computed without what makes it fast."""
        ...
