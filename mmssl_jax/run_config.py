"""Flags and YAML files -> Config, and back. The parsing is jsonargparse's."""

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from mmssl_jax.config import Config, ConfigError, check_config, flatten
from mmssl_jax.presets import PRESETS

set_parsing_settings(docstring_parse_attribute_docstrings=True)

# What is no part of a run's result: devices (parallel.*), where the dataset lies, and events.
MAY_MOVE = ("data.path", "data.format", "train.tensorboard")
# A resumed run may besides be given more or less time.
MAY_CHANGE = (*MAY_MOVE, "train.epochs", "train.max_steps")


class ConfigParser(ArgumentParser):
    """A parser whose errors name the nearest setting for one that does not exist."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        # Without the usage, whose sixty lines would push the message off the screen.
        stages = {entry.name for entry in dataclasses.fields(Config)}
        flags = {flag.lstrip("-") for action in self._actions for flag in action.option_strings}
        own = sorted(flag for flag in flags - stages if "." not in flag)
        hint = _nearest(message, [*flatten(Config()), *own])
        self.exit(2, f"error: {message}{hint}\nall settings: {self.prog} --help\n")


def _nearest(message: str, known: Sequence[str]) -> str:
    unknown = re.findall(r"--([\w.\-]+)", message) if "unrecognized arguments" in message else []
    for group, option in re.findall(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
        unknown.append(f"{group}.{option}")
    unknown += re.findall(r"[Kk]ey ['\"]([\w.]+)['\"] is not expected", message)
    unknown += re.findall(r"(?:^|\s)[Oo]ption ['\"]([\w.]+)['\"] is not accepted", message)
    hints = [
        f"\nthere is no setting {key!r}; the nearest is {nearest_name(key, known)!r}"
        for key in unknown
    ]
    return "".join(hints)


def nearest_name(key: str, known: Iterable[str]) -> str:
    """The name of `known` most like `key`, its last words' initials included: learning_rate is
    lr."""
    stage, dot, name = key.rpartition(".")
    words = [word for word in re.split(r"[_-]", name) if word]
    shortened = [
        "_".join([*words[:i], "".join(w[0] for w in words[i:])]) for i in range(len(words))
    ]
    spellings = [key, *(stage + dot + short for short in shortened)]

    def likeness(candidate: str) -> float:
        return max(
            difflib.SequenceMatcher(None, spelling, candidate).ratio() for spelling in spellings
        )

    return max(known, key=likeness)


def config_parser(prog: str) -> ConfigParser:
    """A parser of `--config FILE` and of every field of Config as a dotted flag."""
    parser = ConfigParser(
        prog=prog,
        allow_abbrev=False,
        description="MMSSL: multi-modal self-supervised recommendation. Later files and flags "
        "override earlier ones; all override the preset.",
    )
    parser.add_argument("--config", action="config", help="YAML file of settings; may be repeated")
    parser.add_class_arguments(Config, as_group=False)
    return parser


def parse_config(parser: ConfigParser, arguments: list[str]) -> tuple[Config, Namespace]:
    """The settings, and everything that was parsed; exits with a message for a value not valid.

    Precedence: defaults < preset < files < flags. The preset may itself come from any of these,
    so the arguments are parsed once to learn it and once with its values as defaults. Whether the
    settings fit together is `validate`'s business.
    """
    for file in config_files(arguments):
        check_config_file(parser, file)
    preset = parser.parse_args(arguments).preset
    parser.set_defaults(dict(PRESETS[preset]))
    parsed = parser.parse_args(arguments)
    return config_from(parser, parsed), parsed


def config_files(arguments: list[str]) -> list[Path]:
    """The files that `--config` names, in order."""
    # The parser itself would read them, and does not say which of them is broken.
    only_files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    only_files.add_argument("--config", action="append", default=[])
    return [Path(file) for file in only_files.parse_known_args(arguments)[0].config]


def check_config_file(parser: ConfigParser, file: Path) -> None:
    """Exits with a message that names the file unless it holds a YAML mapping of settings."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        parser.error(f"{file}: cannot be read ({error.strerror}); --config wants a YAML file")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        parser.error(f"{file}: not YAML: {error}")
    if not isinstance(found, dict):
        kind = "nothing" if found is None else f"a {type(found).__name__}"
        parser.error(
            f"{file}: holds {kind}, expected settings by stage, such as\noptim:\n  lr: 4e-5"
        )


def config_from(parser: ArgumentParser, parsed: Namespace) -> Config:
    """A Config of plain Python values from a parsed namespace."""
    objects = parser.instantiate(parsed)
    stages = {entry.name: getattr(objects, entry.name) for entry in dataclasses.fields(Config)}
    config: Config = _plain(Config(**stages))
    return config


def validate(config: Config) -> None:
    """Raises ConfigError for a value out of its range, or settings that do not fit together."""
    convert(config)
    check_config(config)


def convert(config: Config) -> Config:
    """The same settings with every value as a file's would be read: a list as a tuple, "1e-3" as a
    number.

    Raises ConfigError for a value out of its range.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config, as_group=False)
    try:
        return config_from(parser, parser.parse_object(_nested(config)))
    except ArgumentError as error:
        raise ConfigError(str(error)) from error


def _nested(config: Config) -> dict[str, Any]:
    nested: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return nested


def _plain(value: Any) -> Any:
    """Replaces the parser's number types by int and float, so that configs compare and print."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **changes)
    if isinstance(value, tuple | list):
        return tuple(_plain(entry) for entry in value)
    if isinstance(value, bool) or value is None:
        return value
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    return value


def dump_config(config: Config) -> str:
    """Every setting as YAML; `read_config` gives the same Config back."""
    nested = _nested(config)
    # Widths are numbers because some are fractions; whole ones read better as whole numbers.
    widths = nested["critic"]["hidden"]
    nested["critic"]["hidden"] = [int(w) if w == int(w) else w for w in widths]
    return yaml.safe_dump(nested, sort_keys=False)


def read_config(path: Path) -> Config:
    """Reads a YAML file of settings, defaults elsewhere."""
    return parse_config(config_parser("config"), ["--config", str(path)])[0]


def config_diff(saved: Config, now: Config, ignored: tuple[str, ...] = MAY_CHANGE) -> list[str]:
    """One line per setting that differs, but for devices and those that are ignored."""
    before, after = flatten(saved), flatten(now)
    return [
        f"{key}: {before[key]} in the run, {after[key]} now"
        for key in before
        if before[key] != after[key] and key not in ignored and not key.startswith("parallel.")
    ]
