"""A search's space and a trial's settings in Optuna's terms, and back."""

import json
from typing import Any

from mmssl_jax.config import Config, flatten
from mmssl_jax.tune.space import Choices, Space, contains


def distributions(optuna: Any, space: Space) -> dict[str, Any]:
    """The space in Optuna's terms; choices stand as JSON, since they may be lists."""
    found = {}
    for key, entry in space.items():
        if isinstance(entry, Choices):
            labels = [json.dumps(value) for value in entry.values]
            found[key] = optuna.distributions.CategoricalDistribution(labels)
        elif entry.is_whole:
            found[key] = optuna.distributions.IntDistribution(
                entry.low, entry.high, entry.log, entry.step or 1
            )
        else:
            found[key] = optuna.distributions.FloatDistribution(
                entry.low, entry.high, entry.log, entry.step
            )
    return found


def start_params(space: Space, base: Config) -> dict[str, Any] | None:
    """Optuna's parameters of the base's own settings; None where one lies outside the space."""
    params, values = {}, flatten(base)
    for key, entry in space.items():
        value = values[key]
        if not contains(entry, value):
            return None
        if isinstance(entry, Choices):  # as it stands among them: 8 may stand for 8.0
            value = json.dumps(entry.values[entry.values.index(value)])
        params[key] = value
    return params


def changes_of(space: Space, params: dict[str, Any]) -> dict[str, Any]:
    """A trial's settings, from Optuna's parameters."""
    changes = {}
    for key, value in params.items():
        entry = space[key]
        if isinstance(entry, Choices):
            value = {json.dumps(choice): choice for choice in entry.values}[value]
        changes[key] = value
    return changes
