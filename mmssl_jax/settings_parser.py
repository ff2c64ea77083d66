"""The parser of every command: jsonargparse's, given flags and files that have been checked.

Left to itself it would import a class that a value names, read a file that a value names, take
values from the environment, and let a repeated key go.
"""

import dataclasses
import json
import math
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, set_loader, set_parsing_settings

from mmssl_jax.config import ConfigError
from mmssl_jax.messages import clipped, shown
from mmssl_jax.settings_yaml import flat_settings, meant_as, parse_yaml, plain, read_section

# Flags that no file has a say in.
NO_SETTINGS = {"config", "help", "print_config"}
# Sizes are counted in 32 bits on the devices, and so are seeds, without a sign.
LARGEST, LARGEST_SEED = 2**31 - 1, 2**32 - 1
# Of settings by the end of their names, what would fit no device, or never be compiled.
MOST = {
    "seed": LARGEST_SEED, "seeds": LARGEST_SEED, "dim": 2**16, "hidden": 2**20, "layers": 1000,
    "hops": 1000, "batch_size": 2**24,
}  # fmt: skip


def _load(text: str) -> Any:
    """A flag's value, or the settings of a file that have been read; texts that are neither raise
    what the parser expects."""
    try:
        return json.loads(text) if text.startswith('{"') else plain(parse_yaml(text))
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError(clipped(str(error))) from error


set_loader("settings", _load, exceptions=(yaml.YAMLError,))
set_parsing_settings(docstring_parse_attribute_docstrings=True)


class SettingsParser(ArgumentParser):
    """Flags and YAML files in, checked values out; errors say in which line of which file."""

    settings_class: type | None = None  # a dataclass, whose settings are flags and keys of files

    def __init__(self, **options: Any) -> None:
        super().__init__(parser_mode="settings", allow_abbrev=False, **options)
        self.places: dict[str, str] = {}  # where files name a setting

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, defaults: bool = True
    ) -> Namespace:
        """Parses flags, and the files that `--config` names; exits with 2 and a message for what is
        wrong in them."""
        try:
            words = self.checked(sys.argv[1:] if args is None else args)
        except ConfigError as error:
            self.error(str(error), error)
        # Values of the environment would be seen nowhere.
        parsed = super().parse_args(words, env=False, defaults=defaults)
        try:
            check_numbers(dict(parsed.items()))
        except ConfigError as error:
            self.error(str(error), error)
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exits with 2 and the message, without the usage, whose lines would push it off."""
        whole = f"error: {self.with_places(message)}"
        self.exit(2, f"{clipped(whole)}\nall flags: {self.prog} --help\n")

    def with_places(self, message: str) -> str:
        """A message with the line of the file that names the setting it is about, if one does."""
        for key, place in self.places.items():
            quoted = f'"{key}"' in message or f"'{key}'" in message
            if quoted or message.startswith(f"{key} is "):
                return f"{place}: {message}"
        return message

    def checked(self, arguments: Sequence[str]) -> list[str]:
        """The arguments with what files hold in their place, and texts where texts are meant.

        Raises ConfigError.
        """
        hints = {} if self.settings_class is None else settings_hints(self.settings_class)
        stages = {key.rpartition(".")[0] for key in hints} - {""}
        self.places = {}
        words, found = iter(arguments), list[str]()
        for word in words:
            if any("\ud800" <= char <= "\udfff" for char in word):
                raise ConfigError(f"{shown(word)} is not UTF-8")
            if word == "--":
                return [*found, word, *words]
            flag, is_joined, value = word.partition("=")
            if not flag.startswith("--"):
                found.append(word)
                continue
            key, action = flag[2:], self._option_string_actions.get(flag)
            if action is None:
                raise ConfigError(f"unrecognized arguments: {clipped(flag)}")
            if key in stages:
                raise ConfigError(
                    f"{key} is no setting but some: give them by name, such as "
                    f"--{next(each for each in hints if each.startswith(f'{key}.'))}"
                )
            takes_value = action.nargs != 0 and (key in hints or key == "config")
            if not takes_value:
                found.append(word)
                continue
            following = value if is_joined else next(words, None)
            if following is None:
                found.append(word)
            elif key == "config":
                found.append(f"{flag}={self.read_file(following, hints)}")
            else:
                self.places.pop(key, None)
                found.append(f"{flag}={_text_of(following, key, hints[key])}")
        return found

    def read_file(self, file: str, hints: Mapping[str, Any]) -> str:
        """A file's settings as JSON; remembers where they stand."""
        section = read_section(Path(file), "--config")
        try:
            flat = flat_settings(section, hints)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error
        own = {flag[2:] for flag in self._option_string_actions} - NO_SETTINGS
        for key, (line, _) in flat.items():
            if key not in hints and key not in own:
                raise ConfigError(f"{file}, line {line}: key {key!r} is not expected")
        self.places |= {key: f"{file}, line {line}" for key, (line, _) in flat.items()}
        return json.dumps(nested({key: value for key, (_, value) in flat.items()}))


def _text_of(value: str, key: str, hint: Any) -> str:
    """A flag's list with texts where its type wants them; other values stand for themselves."""
    if hint is str or not value.startswith("["):
        return value
    try:
        node = parse_yaml(value)
    except ConfigError:
        return value  # a text that begins with a bracket, or what the parser will name
    return json.dumps(meant_as(node, key, hint)) if isinstance(node, list) else value


def settings_hints(owner: type, prefix: str = "") -> dict[str, Any]:
    """{dotted key: type} of every setting of a dataclass."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(owner).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found |= settings_hints(hint, f"{prefix}{name}.")
        elif typing.get_origin(hint) is not typing.ClassVar:
            found[prefix + name] = hint
    return found


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"optim.lr": 1}` as `{"optim": {"lr": 1}}`."""
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *above, name = key.split(".")
        inner = found
        for part in above:
            inner = inner.setdefault(part, {})
        inner[name] = value
    return found


def check_numbers(flat: Mapping[str, Any]) -> None:
    """Raises ConfigError, with the key, for a number that is infinite, NaN or too large."""
    for key, value in flat.items():
        name = key.rpartition(".")[2]
        most = next((MOST[end] for end in MOST if name.endswith(end)), None)
        for entry in _numbers(value):
            if isinstance(entry, float) and not math.isfinite(entry):
                raise ConfigError(f"{key} is {float(entry)}: expected a finite number")
            bound = most or (LARGEST if isinstance(entry, int) else math.inf)
            if abs(entry) > bound:
                raise ConfigError(f"{key} is {shown(entry)}: expected at most {bound:,}")


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _numbers(entry)
