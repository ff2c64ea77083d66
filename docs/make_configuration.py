"""Writes docs/configuration.md from the settings: `python docs/make_configuration.py`."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import docstring_parser

from mmssl_jax.config import Config, flatten
from mmssl_jax.methods.mmssl.presets import PRESETS

PAGE = Path(__file__).with_name("configuration.md")

HEAD = """# Settings

Every setting is a flag (`--optim.lr 1e-3`) and a key of a YAML file (`optim: {lr: 1e-3}`). Flags
override files, later files earlier ones, and all override the preset. The defaults are the `paper`
preset; the column *released* has the values of the `released` preset where they differ. Not every
combination is valid: what does not fit together is refused before a run starts. This page is
written by `python docs/make_configuration.py`.
"""

# The parser's number types, in words.
TYPES = {
    "PositiveInt": "int > 0",
    "NonNegativeInt": "int >= 0",
    "PositiveFloat": "float > 0",
    "NonNegativeFloat": "float >= 0",
    "Fraction": "float in [0, 1)",
    "UpToOne": "float in (0, 1]",
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


def rows(owner: type, prefix: str) -> list[str]:
    """The table's rows of one stage."""
    defaults, lines = flatten(Config()), []
    documents = {p.arg_name: p for p in docstring_parser.parse_from_object(owner).params}
    for entry in dataclasses.fields(owner):
        key = f"{prefix}{entry.name}"
        if key not in defaults:
            continue  # a stage
        document = documents[entry.name]
        released = PRESETS["released"].get(key, defaults[key])
        cells = (
            f"`{key}`",
            type_words(str(document.type_name)),
            value_text(defaults[key]),
            value_text(released) if released != defaults[key] else "",
            re.sub(r"\s+", " ", document.description or "").replace("|", "\\|"),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def page() -> str:
    """The whole page."""
    sections = [HEAD]
    stages = {entry.name: entry.default_factory for entry in dataclasses.fields(Config)}
    for name, owner in (("", Config), *stages.items()):
        if not isinstance(owner, type):
            continue
        title = f"`{name}`" if name else "The preset"
        what = (owner.__doc__ or "").strip() if name else "The only setting without a stage."
        table = rows(owner, f"{name}." if name else "")
        head = "| key | type | default | released | what |\n| --- | --- | --- | --- | --- |"
        sections.append(f"## {title}\n\n{what}\n\n{head}\n" + "\n".join(table) + "\n")
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
