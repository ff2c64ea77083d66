"""Flags and YAML files -> Config, and back. The parsing is jsonargparse's."""

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace

from mmssl_jax.config import AnyConfig, Config, ConfigError, flatten, override
from mmssl_jax.files import user_text
from mmssl_jax.messages import clipped, shown
from mmssl_jax.methods import DEFAULT, METHODS
from mmssl_jax.settings_parser import SettingsParser, check_numbers, settings_hints
from mmssl_jax.settings_yaml import flat_settings, read_section

# What is no part of a run's result: devices and hosts (parallel.*), where the dataset lies, events,
# and how often it is saved.
HOSTS = ("parallel.coordinator", "parallel.process", "parallel.processes")
MAY_MOVE = ("data.path", "data.format", "train.tensorboard", "train.checkpoint_minutes", *HOSTS)
# A resumed run may besides be given more or less time.
MAY_CHANGE = (*MAY_MOVE, "train.epochs", "train.max_steps")


# Settings that name a place, in which `~` is the home folder.
PATHS = ("data.path", "parallel.compilation_cache")


class ConfigParser(SettingsParser):
    """A parser whose errors name the nearest setting for one that does not exist."""

    settings_class: type[Config] = Config

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        # Without the usage, whose sixty lines would push the message off the screen.
        method = self.settings_class().method
        which = "" if method in ("", DEFAULT) else f" --method {method}"
        whole = clipped(f"error: {self.with_places(self.with_hints(message))}")
        self.exit(2, f"{whole}\nall settings: {self.prog}{which} --help\n")

    def with_hints(self, message: str) -> str:
        """A message with the nearest setting for each that does not exist."""
        stages = {entry.name for entry in dataclasses.fields(self.settings_class)}
        flags = {flag.lstrip("-") for action in self._actions for flag in action.option_strings}
        own = sorted(flag for flag in flags - stages if "." not in flag)
        return message + _nearest(message, [*flatten(self.settings_class()), *own])


class FileParser(ConfigParser):
    """The same for a file that no command line names: its errors can be caught."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ConfigError(clipped(self.with_places(self.with_hints(message)))) from ex


def _nearest(message: str, known: Sequence[str]) -> str:
    unknown = re.findall(r"--([\w.\-]+)", message) if "unrecognized arguments" in message else []
    for group, option in re.findall(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
        unknown.append(f"{group}.{option}")
    unknown += re.findall(r"[Kk]ey ['\"]([^'\"\n]+)['\"] is not expected", message)
    unknown += re.findall(r"(?:^|\s)[Oo]ption ['\"]([\w.]+)['\"] is not accepted", message)
    hints = [
        f"\nthere is no setting {key!r}; the nearest is {nearest_name(key, known)!r}"
        for key in unknown[:3]
    ]
    return "".join(hints)


def nearest_name(key: str, known: Iterable[str]) -> str:
    """The name of `known` most like `key`, its last words' initials included: learning_rate is
    lr."""
    stage, dot, name = key[:80].rpartition(".")
    words = [word for word in re.split(r"[_-]", name) if word]
    shortened = [
        "_".join([*words[:i], "".join(w[0] for w in words[i:])]) for i in range(len(words))
    ]
    spellings = [key[:80], *(stage + dot + short for short in shortened)]

    def likeness(candidate: str) -> float:
        return max(
            difflib.SequenceMatcher(None, spelling, candidate).ratio() for spelling in spellings
        )

    return max(known, key=likeness)


def config_parser(
    prog: str, arguments: Sequence[str], kind: type[ConfigParser] = ConfigParser
) -> ConfigParser:
    """A parser of `--config FILE` and of every setting of the chosen method as a dotted flag.

    arguments: of the command, which choose the method; exits with a message for one unknown.
    """
    parser = kind(
        prog=prog,
        description="Multi-modal recommendation. Later files and flags "
        "override earlier ones; all override a preset. Without --method the method is "
        f"{DEFAULT}; another has other settings: --method NAME --help.",
    )
    parser.add_argument("--config", action="config", help="YAML file of settings; may be repeated")
    method = chosen_method(parser, arguments)
    if method not in METHODS:
        nearest = nearest_name(method, METHODS)
        parser.error(
            f"there is no method {shown(method)}; the nearest is {nearest!r}; there are "
            f"{', '.join(METHODS)}"
        )
    parser.settings_class = METHODS[method].CONFIG
    parser.add_class_arguments(parser.settings_class, as_group=False)
    return parser


def chosen_method(parser: ConfigParser, arguments: Sequence[str]) -> str:
    """The method that a flag names, or else the last file that names one."""
    words, _ = _first_look().parse_known_args(arguments)
    methods = [check_config_file(parser, Path(file)).get("method") for file in words.config]
    named = [method for method in (DEFAULT, *methods, words.method) if method is not None]
    return str(named[-1])


def config_files(arguments: Sequence[str]) -> list[str]:
    """The files that `--config` names, in their order."""
    files: list[str] = _first_look().parse_known_args(arguments)[0].config
    return files


def _first_look() -> argparse.ArgumentParser:
    # The parser of the settings needs to know the method, and does not look past what it does not
    # know.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", action="append", default=[])
    parser.add_argument("--method")
    return parser


def parse_config(parser: ConfigParser, arguments: Sequence[str]) -> tuple[Config, Namespace]:
    """The settings, and everything that was parsed; exits with a message for a value not valid.

    Precedence: defaults < preset < files < flags. The preset may itself come from any of these,
    so the arguments are parsed once to learn it and once with its values as defaults. Whether the
    settings fit together is `validate`'s business.
    """
    presets = parser.settings_class.PRESETS
    if presets:
        parser.set_defaults(dict(presets[parser.parse_args(arguments).preset]))
    parsed = parser.parse_args(arguments)
    config = config_from(parser, parser.settings_class, parsed)
    flat = flatten(config)
    return override(config, {key: user_text(flat[key]) for key in PATHS}), parsed


def check_config_file(parser: ConfigParser, file: Path) -> dict[str, Any]:
    """A file's settings by their dotted keys; exits with a message that names it unless it holds a
    YAML mapping."""
    try:
        section = read_section(file, "--config")
    except ConfigError as error:
        parser.error(str(error), error)
    try:
        flat = flat_settings(section, settings_hints(parser.settings_class))
    except ConfigError as error:
        parser.error(f"{file}: {error}", error)
    return {key: value for key, (_, value) in flat.items()}


def config_from(
    parser: ArgumentParser, config_class: type[AnyConfig], parsed: Namespace
) -> AnyConfig:
    """A config of plain Python values from a parsed namespace."""
    objects = parser.instantiate(parsed)
    stages = {
        entry.name: getattr(objects, entry.name) for entry in dataclasses.fields(config_class)
    }
    config: AnyConfig = _plain(config_class(**stages))
    return config


def validate(config: Config) -> None:
    """Raises ConfigError for a value out of its range, or settings that do not fit together."""
    convert(config).check()


def convert(config: AnyConfig) -> AnyConfig:
    """The same settings with every value as a file's would be read: a list as a tuple, "1e-3" as a
    number.

    Raises ConfigError for a value out of its range.
    """
    parser = FileParser()
    parser.settings_class = type(config)
    parser.add_class_arguments(type(config), as_group=False)
    known = flatten(type(config)())
    for key, value in flatten(config).items():
        # The parser would take a text in a stage's place, or a mapping, for a class to import.
        if key not in known or _holds_mapping(value):
            raise ConfigError(f"{key} is {shown(value)}, expected {_kind_of(key, known)}")
    check_numbers(flatten(config))
    try:
        values = _nested(config)
    except (TypeError, ValueError, RecursionError) as error:  # of a kind that no file holds
        raise ConfigError(f"a setting is of a kind that no file holds: {error}") from error
    converted = config_from(parser, type(config), parser.parse_object(values, env=False))
    check_numbers(flatten(converted))
    return converted


def _kind_of(key: str, known: Mapping[str, Any]) -> str:
    is_stage = any(each.startswith(f"{key}.") for each in known)
    return "the settings of a stage" if is_stage else "a value"


def _holds_mapping(value: Any) -> bool:
    inside = value if isinstance(value, list | tuple) else ()
    return isinstance(value, Mapping) or any(_holds_mapping(entry) for entry in inside)


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
    """Every setting as YAML; `read_config` gives the same settings back."""
    return yaml.safe_dump(_whole(_nested(config)), sort_keys=False)


def _whole(value: Any) -> Any:
    """Lists of numbers with whole ones as whole numbers, which read better."""
    if isinstance(value, dict):
        return {key: _whole(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [int(x) if isinstance(x, float) and x == int(x) else x for x in value]
    return value


def read_config(path: Path) -> Config:
    """Reads a YAML file of settings, defaults elsewhere.

    Raises ConfigError for a file that holds no valid settings.
    """
    arguments = [f"--config={path}"]
    return parse_config(config_parser("config", arguments, FileParser), arguments)[0]


def without_hosts(config: AnyConfig) -> AnyConfig:
    """The same settings for one host, as a run keeps them: it may go on elsewhere."""
    default = flatten(Config())
    return override(config, {key: default[key] for key in HOSTS})


def config_diff(saved: Config, now: Config, ignored: tuple[str, ...] = MAY_CHANGE) -> list[str]:
    """One line per setting that differs, but for devices and those that are ignored."""
    before, after = flatten(saved), flatten(now)
    return [
        f"{key}: {before.get(key)} in the run, {after.get(key)} now"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
        and key not in ignored
        and not key.startswith("parallel.")
    ]
