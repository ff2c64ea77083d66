"""The departures of the PyTorch release from the paper, each as one setting with both values.

The numbers are the rows of the ledger. Rows that change no number (a slip without effect, a
parameter that gets no gradient) are not settings.
"""

from typing import Any, NamedTuple


class Departure(NamedTuple):
    """One setting in which the release differs from the paper."""

    row: int
    key: str
    paper: Any
    released: Any
    what: str


DEPARTURES = (
    Departure(
        2, "game.temperature_scope", "logit", "noise", "what the real rows' temperature divides"
    ),
    Departure(3, "structure.k_rate", None, 1e-4, "k as a share of the items, 0 below 10,000"),
    Departure(4, "structure.edge_users", "own", "tiled", "users of learned edges"),
    Departure(5, "model.attention_values", "keys", "queries", "axis of the attention's values"),
    Departure(7, "critic.norm", "layer", "batch", "normalisation in the critic"),
    Departure(7, "critic.score_bound", 0.0, 100.0, "bounded critic score"),
    Departure(7, "critic.hidden", (512, 256), (0.25, 0.125), "widths of the critic"),
    Departure(8, "critic.slope", 0.2, 1.0, "slope of the leaky ReLU"),
    Departure(9, "game.score_weight", 1.0, 100.0, "the model's own scores in real rows"),
    Departure(10, "structure.mask_observed", False, True, "observed pairs in generated rows"),
    Departure(11, "structure.source", "all_users", "batches", "users a rebuild covers"),
    Departure(11, "structure.every", 0, 1, "steps between rebuilds"),
    Departure(11, "structure.similarity", "cosine", "dot", "score that picks the learned edges"),
    Departure(12, "model.last_layer_softmax", False, True, "softmax in the last propagation round"),
    Departure(13, "optim.lr_decay", 0.96, 1.0, "decay of the learning rate"),
    Departure(20, "train.shared_forward", True, False, "dropout masks of the two players"),
    Departure(23, "loss.mask_repeated", True, False, "a user that a batch holds twice"),
)

# The settings on which paper and release agree, or that each dataset sets, are not listed.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {departure.key: departure.paper for departure in DEPARTURES},
    "released": {departure.key: departure.released for departure in DEPARTURES},
}
