"""The departures of the PyTorch release from the paper, each as one setting with both values.

The numbers are the rows of the ledger. Rows that change no number (a slip without effect, a
parameter that gets no gradient) are not settings.
"""

from typing import Any, NamedTuple

from mmssl_jax.config import Config, flatten, override


class Departure(NamedTuple):
    """One setting in which the release differs from the paper."""

    row: int
    key: str
    paper: Any
    released: Any
    what: str


_DEFAULTS = flatten(Config())


def _departure(row: int, key: str, released: Any, what: str) -> Departure:
    return Departure(row, key, _DEFAULTS[key], released, what)


DEPARTURES = (
    _departure(2, "game.temperature_scope", "noise", "what the real rows' temperature divides"),
    _departure(3, "structure.k_rate", 1e-4, "k as a share of the items, 0 below 10,000"),
    _departure(4, "structure.edge_users", "tiled", "users of learned edges"),
    _departure(5, "model.attention_values", "queries", "axis of the attention's values"),
    _departure(7, "critic.norm", "batch", "normalisation in the critic"),
    _departure(7, "critic.score_bound", 100.0, "bounded critic score"),
    _departure(7, "critic.hidden", (0.25, 0.125), "widths of the critic"),
    _departure(8, "critic.slope", 1.0, "slope of the leaky ReLU"),
    _departure(9, "game.score_weight", 100.0, "the model's own scores in real rows"),
    _departure(10, "structure.mask_observed", True, "observed pairs in generated rows"),
    _departure(11, "structure.source", "batches", "users a rebuild covers"),
    _departure(11, "structure.every", 1, "steps between rebuilds"),
    _departure(11, "structure.similarity", "dot", "score that picks the learned edges"),
    _departure(12, "model.last_layer_softmax", True, "softmax in the last propagation round"),
    _departure(13, "optim.lr_decay", 1.0, "decay of the learning rate"),
    _departure(20, "train.shared_forward", False, "dropout masks of the two players"),
)

# The settings on which paper and release agree, or that each dataset sets, are not listed.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {departure.key: departure.paper for departure in DEPARTURES},
    "released": {departure.key: departure.released for departure in DEPARTURES},
}


def preset_config(name: str) -> Config:
    """The settings of a preset, with defaults elsewhere."""
    return override(Config(), {"preset": name, **PRESETS[name]})
