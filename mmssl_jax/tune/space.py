"""The space of a search: a YAML file of settings, each with a range or a list of choices.

optim.lr: {low: 1e-5, high: 1e-3, log: true}
model.gnn_layers: {low: 1, high: 3}
sampling.by: {choices: [user, interaction]}
"""

import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmssl_jax.config import Config, ConfigError, flatten, override
from mmssl_jax.files import user_path
from mmssl_jax.messages import shown
from mmssl_jax.method import Tuned
from mmssl_jax.methods import METHODS
from mmssl_jax.run_config import convert, nearest_name
from mmssl_jax.settings_parser import settings_hints
from mmssl_jax.settings_yaml import Node, Section, meant, plain, read_section

# They say what is measured, on which data and where, so that trials would not be comparable.
FIXED = (
    "method", "preset", "data.path", "data.format", "data.seed", "data.cold_items",
    "train.monitor", "train.seed", "train.epochs", "train.max_steps", "train.checkpoint_minutes",
    "train.tensorboard",
)  # fmt: skip
FIXED_STAGES = ("eval", "parallel")
EXAMPLE = "such as\n'optim.lr: {low: 1e-5, high: 1e-3, log: true}'"
MOST_STEPS = 10**9


class Range(NamedTuple):
    """Numbers from low to high, both included; `log` draws them evenly on a logarithmic scale."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    is_whole: bool = False


class Choices(NamedTuple):
    """Values without an order."""

    values: tuple[Any, ...]


Space = dict[str, Range | Choices]


def contains(entry: Range | Choices, value: Any) -> bool:
    """Whether a search over the entry can draw the value of a setting."""
    if isinstance(entry, Choices):
        return value in entry.values
    if value is None or not entry.low <= value <= entry.high:
        return False
    steps = 0.0 if entry.step is None else (value - entry.low) / entry.step
    return math.isclose(steps, round(steps), abs_tol=1e-9)


def read_space(path: Path, base: Config) -> Space:
    """Reads a space file; every value has been checked against the range of its setting.

    Args:
      base: the settings that a trial changes.
    Raises ConfigError, with the file, the setting, and what is expected.
    """
    path = user_path(path)
    if not path.exists():
        raise ConfigError(f"there is no space file {path}: give one with --space FILE")
    section = read_section(path, "--space", f"expected a line for each setting, {EXAMPLE}")
    if not section.entries:
        raise ConfigError(f"{path} holds no settings: give a line for each, {EXAMPLE}")
    hints, space = settings_hints(type(base)), {}
    for key, (line, node) in section.entries.items():
        try:
            space[key] = _parse_entry(key, _as_meant(node, key, hints.get(key)), base)
        except ConfigError as error:
            raise ConfigError(f"{path}: line {line}: {error}") from error
    return space


def _as_meant(node: Node, key: str, hint: Any) -> Any:
    """An entry as plain Python; its choices are of the setting's type."""
    if not isinstance(node, Section):
        return plain(node)
    return {
        word: meant(entry, key, hint) if word == "choices" else plain(entry)
        for word, (_, entry) in node.entries.items()
    }


def own_space(base: Config) -> Space:
    """The space that the base's method declares for itself; empty where it declares none."""
    method = METHODS[base.method]
    return parse_space(method.SPACE, base) if isinstance(method, Tuned) else {}


def parse_space(content: Mapping[Any, Any], base: Config) -> Space:
    """The space that settings, each with its range or choices, stand for; `base` as above.

    Raises ConfigError with the setting, and what is expected.
    """
    return {str(key): _parse_entry(str(key), entry, base) for key, entry in content.items()}


def _parse_entry(key: str, entry: Any, base: Config) -> Range | Choices:
    known = flatten(base)
    if key not in known:
        inside = [name for name in known if name.startswith(f"{key}.")]
        nearest = inside[0] if inside else nearest_name(key, known)
        raise ConfigError(f"there is no setting {shown(key)}; the nearest is {nearest!r}")
    if key in FIXED or key.split(".")[0] in FIXED_STAGES:
        raise ConfigError(f"{key} cannot be searched over: it is the same for all trials")
    if not isinstance(entry, dict):
        raise ConfigError(
            f"{key} is {shown(entry)}: expected {{low: .., high: ..}} or {{choices: [..]}}"
        )
    if "choices" in entry:
        return _parse_choices(key, entry, base)
    return _parse_range(key, entry, base)


def _parse_choices(key: str, entry: dict[str, Any], base: Config) -> Choices:
    _refuse_other_words(key, entry, ("choices",))
    if not isinstance(entry["choices"], list) or not entry["choices"]:
        raise ConfigError(f"{key}: choices is {shown(entry['choices'])}, expected a list of values")
    values = tuple(flatten(_changed(base, key, value))[key] for value in entry["choices"])
    if len(set(values)) < len(values):
        raise ConfigError(f"{key}: choices names a value twice: {shown(entry['choices'])}")
    return Choices(values)


def _parse_range(key: str, entry: dict[str, Any], base: Config) -> Range:
    _refuse_other_words(key, entry, ("low", "high", "log", "step"))
    kinds = _kinds(type(base), key)
    if not kinds & {int, float}:
        raise ConfigError(f"{key} is no number, so it has no range: give {{choices: [..]}}")
    for word in ("low", "high"):
        if word not in entry:
            raise ConfigError(f"{key} has no {word}: give both, such as {{low: 1, high: 3}}")
    low, high = (flatten(_changed(base, key, entry[word]))[key] for word in ("low", "high"))
    log, step, is_whole = entry.get("log", False), entry.get("step"), float not in kinds
    if low is None or high is None or not low < high:
        raise ConfigError(
            f"{key}: low is {shown(entry['low'])} and high {shown(entry['high'])}: low < high"
        )
    if not isinstance(log, bool):
        raise ConfigError(f"{key}: log is {shown(log)}, expected true or false")
    if log and low <= 0:
        raise ConfigError(f"{key}: log needs low above 0, which is {low}")
    if step is not None:
        step = _parse_step(key, step, low, high, log, is_whole)
    return Range(low, high, log, step, is_whole)


def _parse_step(
    key: str, step: Any, low: float, high: float, log: bool, is_whole: bool
) -> int | float:
    if log:
        raise ConfigError(f"{key}: log and step exclude each other: leave one out")
    try:
        size = float(step)
    except (TypeError, ValueError, OverflowError):
        size = math.nan
    if not 0 < size < math.inf or (is_whole and size != int(size)):
        kind = "a whole number" if is_whole else "a number"
        raise ConfigError(f"{key}: step is {shown(step)}, expected {kind} above 0")
    steps = (high - low) / size
    if steps > MOST_STEPS:
        raise ConfigError(f"{key}: steps of {shown(step)} are more than {MOST_STEPS:,}")
    if not math.isclose(steps, round(steps), rel_tol=1e-9) or round(steps) < 1:
        raise ConfigError(
            f"{key}: steps of {shown(step)} do not lead from low {low} to high {high}"
        )
    return int(size) if is_whole else size


def _refuse_other_words(key: str, entry: dict[str, Any], words: tuple[str, ...]) -> None:
    for word in entry:
        if word not in words:
            raise ConfigError(f"{key} has {shown(word)}; expected only {', '.join(words)}")


def _changed(base: Config, key: str, value: Any) -> Config:
    try:
        return convert(override(base, {key: value}))
    except ConfigError as error:
        raise ConfigError(f"{key} cannot be {shown(value)}: {error}") from error


def _kinds(config_class: type[Config], key: str) -> set[type]:
    """int, float, neither or both: the numbers that a setting takes."""
    owner: Any = config_class
    *stage, name = key.split(".")
    if stage:
        owner = typing.get_type_hints(config_class)[stage[0]]
    hint = typing.get_type_hints(owner)[name]
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    members = typing.get_args(hint) if is_union else (hint,)
    classes = [kind for kind in members if isinstance(kind, type) and kind is not bool]
    return {number for number in (int, float) if any(issubclass(kind, number) for kind in classes)}
