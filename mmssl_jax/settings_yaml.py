"""YAML as people write it: read without cost, code or loss; every value knows its line.

Numbers are those of JSON, with underscores; `yes`, `no`, `on` and `off` are true and false, but the
text itself where a setting takes text. Aliases, anchors, tags, several documents and repeated keys
are refused, as are keys by which a parser would look for code.
"""

import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mmssl_jax.config import ConfigError
from mmssl_jax.files import read_regular, user_path
from mmssl_jax.messages import shown

# Settings take a few thousand bytes on four levels. More than this would only cost.
MOST_BYTES, MOST_DEPTH, MOST_DIGITS, LONGEST_NAME = 100_000, 12, 40, 200

CODE_KEYS = ("class_path", "init_args", "dict_kwargs")
EXAMPLE = "expected settings by stage, such as\noptim:\n  lr: 4e-5"

_WHOLE = re.compile(r"[-+]?[0-9][0-9_]*")
_NUMBER = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.?(?:inf|infinity|nan)", re.IGNORECASE)
_TRUE, _FALSE, _NULL = ("true", "yes", "on"), ("false", "no", "off"), ("", "~", "null")


class Scalar(NamedTuple):
    """A text of a file, where it begins, and whether it stands there without quotes."""

    text: str
    is_plain: bool
    line: int


class Section(NamedTuple):
    """Names with the line of each and what stands there; each name once."""

    entries: dict[str, tuple[int, "Node"]]
    line: int


Node = Scalar | Section | list["Node"]


def read_yaml(path: Path, wanted_by: str) -> Node:
    """What a YAML file holds. Raises ConfigError, with the file and, where there is one, the line.

    wanted_by: what reads the file, such as the flag that names it.
    """
    place = user_path(path)
    try:
        data = read_regular(place, MOST_BYTES)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); {wanted_by} wants a YAML file"
        ) from error
    except ValueError as error:  # a path with a NUL
        raise ConfigError(f"{shown(str(path))}: no name of a file ({error})") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}: not YAML: line {line}: byte {data[error.start]:#04x} is not UTF-8; save the "
            "file as UTF-8"
        ) from error
    try:
        return parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_section(path: Path, wanted_by: str, example: str = EXAMPLE) -> Section:
    """The same for a file that must hold names with values."""
    found = read_yaml(path, wanted_by)
    if not isinstance(found, Section):
        kind = "nothing" if _is_empty(found) else "a list" if isinstance(found, list) else "a value"
        raise ConfigError(f"{path}: holds {kind}, {example}")
    return found


def parse_yaml(text: str) -> Node:
    """What a YAML text holds. Raises ConfigError with the line of what it cannot hold."""
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{len(text):,} characters; no more than {MOST_BYTES:,} are read")
    try:
        events = _checked(yaml.parse(text, Loader=yaml.SafeLoader))
        node: Node = Scalar("", True, 1)
        for event in events:
            if not isinstance(event, _FRAME):
                node = _node(event, events)
        return node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        begun = error.context_mark
        is_told = begun is None or mark is None or begun.line == mark.line
        since = "" if is_told else f"; what is wrong began in line {begun.line + 1}"
        raise ConfigError(f"not YAML: {where}{error.problem or error.context}{since}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"not YAML: line {line}: character {chr(error.character)!a} cannot stand there"
            if isinstance(error.character, int)
            else f"not YAML: line {line}: {error.reason}"
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"not YAML: {error}") from error


_FRAME = (
    yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent,
)  # fmt: skip


def _checked(events: Iterator[Any]) -> Iterator[Any]:
    """The events of a text up to the first that it may not have."""
    depth = documents = 0
    for event in events:
        line = event.start_mark.line + 1
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if depth > MOST_DEPTH:
            raise ConfigError(f"line {line}: more than {MOST_DEPTH} levels within each other")
        if documents > 1:
            raise ConfigError(f"line {line}: a second document begins (---): keep one of them")
        if getattr(event, "anchor", None) is not None:
            is_alias = isinstance(event, yaml.AliasEvent)
            sign, name = ("*", "an alias") if is_alias else ("&", "an anchor")
            raise ConfigError(
                f"line {line}: {shown(sign + event.anchor)} is {name}: write the value out, or "
                f"put a text that begins with {sign} in quotes"
            )
        if getattr(event, "tag", None) is not None:
            raise ConfigError(
                f"line {line}: {shown(event.tag)} is a tag, and settings have none: leave it out, "
                "or put a text that begins with ! in quotes"
            )
        yield event


def _node(event: Any, events: Iterator[Any]) -> Node:
    line = event.start_mark.line + 1
    if isinstance(event, yaml.ScalarEvent):
        wrong = next((char for char in event.value if _cannot_be_written(char)), None)
        if wrong is not None:
            raise ConfigError(f"line {line}: character {wrong!a} in a text")
        return Scalar(event.value, event.style is None, line)
    if isinstance(event, yaml.SequenceStartEvent):
        entries: list[Node] = []
        while not isinstance(inner := next(events), yaml.SequenceEndEvent):
            entries.append(_node(inner, events))
        return entries
    found: dict[str, tuple[int, Node]] = {}
    while not isinstance(inner := next(events), yaml.MappingEndEvent):
        name = _name(inner)
        at = inner.start_mark.line + 1
        if name in found:
            raise ConfigError(
                f"line {at}: {shown(name)} stands there a second time, first in line "
                f"{found[name][0]}: join the two, or leave one out"
            )
        found[name] = at, _node(next(events), events)
    return Section(found, line)


def _cannot_be_written(char: str) -> bool:
    """Whether no path and no file of UTF-8 holds a character: NUL, or half of a pair."""
    return char == "\0" or "\ud800" <= char <= "\udfff"


def _name(event: Any) -> str:
    """The key of an entry; settings are named by texts, and none names code."""
    line = event.start_mark.line + 1
    if not isinstance(event, yaml.ScalarEvent):
        raise ConfigError(f"line {line}: a list or a mapping as a key; settings are named by words")
    name: str = event.value
    if len(name) > LONGEST_NAME:
        raise ConfigError(f"line {line}: {shown(name)} as a key; no setting has so long a name")
    if event.style is None and not isinstance(resolved(Scalar(name, True, line)), str):
        raise ConfigError(f"line {line}: {shown(name)} as a key; settings are named by words")
    for part in name.split("."):
        if part in CODE_KEYS or (part.startswith("__") and part.endswith("__")):
            raise ConfigError(
                f"line {line}: {shown(name)} would name code to load, which settings cannot: give "
                "the settings themselves"
            )
    return name


def resolved(scalar: Scalar) -> Any:
    """What a scalar stands for where nothing else is known: null, true, false, a number or text.

    Raises ConfigError for a number that is not finite, or of very many digits.
    """
    text, lowered = scalar.text, scalar.text.lower()
    if not scalar.is_plain:
        return text
    if lowered in _NULL:
        return None
    if lowered in _TRUE or lowered in _FALSE:
        return lowered in _TRUE
    is_number = _NUMBER.fullmatch(text) is not None
    if is_number and len(text) > MOST_DIGITS:
        raise ConfigError(f"line {scalar.line}: a number of {len(text):,} characters")
    if _WHOLE.fullmatch(text):
        return int(text.replace("_", ""))
    value = float(text.replace("_", "")) if is_number else 0.0
    if _NOT_FINITE.fullmatch(text) or math.isinf(value):
        raise ConfigError(
            f"line {scalar.line}: {shown(text)} is no finite number: give one, or put a text in "
            "quotes"
        )
    return value if is_number else text


def plain(node: Node) -> Any:
    """A node as plain Python, where nothing is known of what it is for."""
    if isinstance(node, Section):
        return {name: plain(entry) for name, (_, entry) in node.entries.items()}
    if isinstance(node, list):
        return [plain(entry) for entry in node]
    return resolved(node)


def meant(node: Node, key: str, hint: Any) -> Any:
    """A setting's value as plain Python: what its type says, where YAML would say otherwise.

    So `off`, 2024 and 2024-01-01 are texts where text is wanted. hint: the setting's type, None for
    one unknown. Raises ConfigError with the line and the key.
    """
    if isinstance(node, list):
        return [meant(entry, key, hint) for entry in node]
    if hint is None or isinstance(node, Section):
        return plain(node)
    kinds, words = _leaves(hint)
    takes_number = bool(kinds & {int, float})
    if not node.is_plain or node.text in words or (str in kinds and node.text.lower() not in _NULL):
        return node.text
    value = resolved(node)
    if value is None and type(None) not in kinds:
        raise ConfigError(
            f"line {node.line}: {key} has no value: leave the line out"
            + (", or write '~' in quotes" if node.text == "~" else "")
            + (", or '' for an empty text" if str in kinds else "")
        )
    if isinstance(value, bool) and takes_number and bool not in kinds:
        raise ConfigError(
            f"line {node.line}: {key} is {node.text}, which YAML takes for {str(value).lower()}: "
            "expected a number"
        )
    is_word = bool(words) and not takes_number and bool not in kinds and value is not None
    return node.text if is_word else value


def _leaves(hint: Any) -> tuple[set[Any], set[str]]:
    """The classes that a type is made of, subclasses of numbers as the numbers, and its words."""
    if typing.get_origin(hint) is typing.Literal:
        return set(), {word for word in typing.get_args(hint) if isinstance(word, str)}
    inner = typing.get_args(hint)
    if inner or isinstance(hint, types.UnionType):
        found = [_leaves(each) for each in inner if each is not Ellipsis]
        return set().union(*(kinds for kinds, _ in found)), set().union(*(w for _, w in found))
    for kind in (bool, int, float, str):
        if isinstance(hint, type) and issubclass(hint, kind):
            return {kind}, set()
    return {hint}, set()


def flat_settings(section: Section, hints: Mapping[str, Any]) -> dict[str, tuple[int, Any]]:
    """{dotted key: (line, value)} of all settings of a section.

    A stage without entries, or whose entries are all commented out, changes nothing.

    Args:
      hints: {dotted key: type} of the settings that are known.
    Raises ConfigError for a key that stands there twice, one of them perhaps as `optim.lr`.
    """
    stages = {key.rpartition(".")[0] for key in hints} - {""}
    flat: dict[str, tuple[int, Any]] = {}
    above: dict[str, int] = {}  # what other keys lie under, with the line of one of them
    for key, line, value in _settings_of(section, hints, stages, ""):
        words = key.split(".")
        parents = [".".join(words[:i]) for i in range(1, len(words))]
        before = next((flat[each][0] for each in (key, *parents) if each in flat), above.get(key))
        if before is not None:
            raise ConfigError(
                f"line {line}: {shown(key)} stands there a second time, first in line {before}: "
                "join the two, or leave one out"
            )
        flat[key] = line, value
        above |= dict.fromkeys(parents, line)
    return flat


def _settings_of(
    section: Section, hints: Mapping[str, Any], stages: set[str], prefix: str
) -> Iterator[tuple[str, int, Any]]:
    for name, (line, node) in section.entries.items():
        key = prefix + name
        if isinstance(node, Section) and (node.entries or key in stages):
            yield from _settings_of(node, hints, stages, f"{key}.")
        elif key not in stages:
            yield key, line, meant_as(node, key, hints.get(key))
        elif not _is_empty(node):
            value = meant_as(node, key, None)
            raise ConfigError(
                f"line {line}: {key} is {shown(value)}, expected its settings by name"
            )


def meant_as(node: Node, key: str, hint: Any) -> Any:
    """The same as `meant`, whose errors name the key."""
    try:
        return meant(node, key, hint)
    except ConfigError as error:
        told = str(error)
        raise error if key in told else ConfigError(f"{told} ({key})") from error


def _is_empty(node: Node) -> bool:
    """Whether nothing stands where a value is expected."""
    return isinstance(node, Scalar) and node.is_plain and not node.text
