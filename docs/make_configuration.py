"""Writes docs/configuration.md from the settings: `python docs/make_configuration.py`."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import docstring_parser

from mmssl_jax.config import Config, flatten, override
from mmssl_jax.methods import DEFAULT, METHODS

PAGE = Path(__file__).with_name("configuration.md")

HEAD = f"""# Settings

Every setting is a flag (`--optim.lr 1e-3`) and a key of a YAML file (`optim: {{lr: 1e-3}}`). Flags
override files, later files earlier ones, and all override the preset, where a method has presets.
Not every combination is valid: what does not fit together is refused before a run starts. This page
is written by `python docs/make_configuration.py`.

The first part has the settings of every method. A part for each method follows, with its own
settings and with those of the first part that have another default or meaning there. The command
line and files know the settings of the chosen method alone: `--method NAME`, else `{DEFAULT}`.

A file is one YAML mapping of at most 100,000 bytes in UTF-8. A section whose keys are all commented
out changes nothing. `off`, `2024` or `2024-01-01` is that text where a setting takes text; numbers
are decimal and finite. Refused, with the file and the line: a key that stands there twice, aliases,
anchors, tags, a second document, and keys such as `class_path`, by which code would be loaded. `~`
at the head of a path is the home folder, in files as in flags.
"""

EVERY = "The settings of every method"
RELEASED = (
    "The defaults are the `paper` preset; the column *released* has the values of the `released`\n"
    "preset where they differ."
)
COLUMNS = ("key", "type", "default", "what")

# The parser's number types, in words.
TYPES = {
    "PositiveInt": "int > 0",
    "NonNegativeInt": "int >= 0",
    "PositiveFloat": "float > 0",
    "NonNegativeFloat": "float >= 0",
    "Fraction": "float in [0, 1)",
    "UpToOne": "float in (0, 1]",
    "ClosedUnitInterval": "float in [0, 1]",
    "str": "text",
    "bool": "true or false",
}


def type_words(annotation: str) -> str:
    """A field's annotation in words: choices by name, number types by their range."""
    if annotation.startswith("Literal["):
        return ", ".join(f"`{choice}`" for choice in re.findall(r"['\"](.*?)['\"]", annotation))
    if annotation.startswith("tuple["):
        parts = annotation.removeprefix("tuple[").removesuffix("]").split(", ")
        words = ", ".join(TYPES.get(part, part) for part in parts if part != "...")
        return f"list of {words}" if parts[-1] == "..." else f"list: {words}"
    parts = [part.strip() for part in annotation.split("|")]
    return " or ".join("null" if part == "None" else TYPES[part] for part in parts)


def value_text(value: Any) -> str:
    """A value as YAML and the command line write it."""
    if isinstance(value, tuple):
        return "`[" + ", ".join(str(entry) for entry in value) + "]`"
    if isinstance(value, bool) or value is None:
        return f"`{str(value).lower() if value is not None else 'null'}`"
    return f"`{value}`" if value != "" else "empty"


class Setting(NamedTuple):
    """What the page says of a setting."""

    words: str
    default: Any
    what: str


def documents_of(owner: type) -> dict[str, docstring_parser.DocstringParam]:
    """The docstrings of a stage's fields; a subclass's own come first."""
    stages = [each for each in owner.__mro__ if dataclasses.is_dataclass(each)]
    return {
        document.arg_name: document
        for stage in reversed(stages)
        for document in docstring_parser.parse_from_object(stage).params
    }


def settings_of(config: Config) -> dict[str, Setting]:
    """Every setting by its dotted key."""
    found = {}
    for key, default in flatten(config).items():
        *stage, name = key.split(".")
        owner = type(getattr(config, stage[0])) if stage else type(config)
        document = documents_of(owner)[name]
        what = re.sub(r"\s+", " ", document.description or "").replace("|", "\\|")
        found[key] = Setting(type_words(str(document.type_name)), default, what)
    return found


def table(settings: dict[str, Setting], released: dict[str, Any]) -> str:
    """Settings as a table; with a column for the other preset's values where there is one."""
    columns = COLUMNS if not released else (*COLUMNS[:3], "released", COLUMNS[3])
    lines = [columns, tuple("---" for _ in columns)]
    for key, (words, default, what) in settings.items():
        other = value_text(released[key]) if released.get(key, default) != default else ""
        cells = (f"`{key}`", words, value_text(default), *([other] if released else []), what)
        lines.append(cells)
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def stage_names(keys: Iterable[str]) -> list[str]:
    """The stages of keys, after "" if some key has none."""
    return sorted(dict.fromkeys(key.rpartition(".")[0] for key in keys), key=bool)


def sections(
    config: Config, settings: dict[str, Setting], released: dict[str, Any]
) -> Iterable[str]:
    """A section for each stage of some settings."""
    for name in stage_names(settings):
        stage = {k: s for k, s in settings.items() if k.rpartition(".")[0] == name}
        title = f"`{name}`" if name else "Without a stage"
        what = f"{(getattr(config, name).__doc__ or '').strip()}\n\n" if name else ""
        yield f"### {title}\n\n{what}{table(stage, released)}"


def own_settings(config: Config, shared: dict[str, Setting]) -> dict[str, Setting]:
    """A method's settings that not every method has, or has with this default and meaning."""
    return {
        key: setting
        for key, setting in settings_of(config).items()
        if key != "method" and shared.get(key) != setting
    }


def page() -> str:
    """The whole page."""
    base = override(Config(), {"method": DEFAULT})
    shared = settings_of(base)
    parts = [HEAD, f"## {EVERY}\n", *sections(base, shared, {})]
    for name, method in METHODS.items():
        config = method.CONFIG()
        released = dict(config.PRESETS.get("released", {}))
        what = (config.__doc__ or "").strip() + (f" {RELEASED}" if released else "")
        parts.append(f"## {method.TITLE}: `--method {name}`\n\n{what}\n")
        parts += sections(config, own_settings(config, shared), released)
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
