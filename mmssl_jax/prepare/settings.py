"""Every setting of `python -m mmssl_jax.prepare`, one frozen dataclass per stage."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from mmssl_jax.config import ConfigError, Fraction
from mmssl_jax.messages import shown

Quotes = Literal["auto", "double", "none"]
SplitMethod = Literal["random", "leave_one_out", "time_per_user", "global_time"]


@dataclass(frozen=True)
class CoreSettings:
    """Users and items with fewer interactions are removed, again and again until none is left."""

    users: PositiveInt = 5
    """Least interactions of a user, before the split."""
    items: PositiveInt = 5
    """Least interactions of an item, before the split."""


@dataclass(frozen=True)
class SplitSettings:
    """Which interactions are held out for validation and test."""

    method: SplitMethod = "random"
    """random: shares of each user's interactions; leave_one_out: the last one for test and the one
    before for validation; time_per_user: the last shares of each user's; global_time: the last
    shares of all. Without time_column, leave_one_out takes random ones."""
    validation: Fraction = 0.1
    """Share of validation; leave_one_out has none."""
    test: Fraction = 0.1
    """Share of test; leave_one_out has none."""
    seed: NonNegativeInt = 0
    """Seed of everything random: choices, the order of equal times, the rounding of shares."""


@dataclass(frozen=True)
class TextSettings:
    """A modality from the texts of the items table; none while `column` is empty."""

    column: list[str] | str = ""
    """Column of texts, or a list of columns, whose texts are joined by a line break."""
    modality: str = "text"
    """Name of the modality."""
    encoder: str = "sentence-transformers"
    """sentence-transformers, or a function of your own as package.module:function."""
    model: str = ""
    """Model of the encoder: a local folder, or a name that the encoder's library downloads."""
    batch_size: PositiveInt = 64
    """Texts encoded at once."""


@dataclass(frozen=True)
class ImageSettings:
    """A modality from image files; none while `folder` and `column` are empty."""

    folder: str = ""
    """Folder of images named by raw item id, like B0001.jpg; with `column`, what paths start from
    (else the items table's folder)."""
    column: str = ""
    """Column of the items table with the path of an image."""
    modality: str = "image"
    """Name of the modality."""
    encoder: str = "timm"
    """timm, or a function of your own as package.module:function."""
    model: str = ""
    """Model of the encoder; for timm NAME, which it downloads, or NAME,FILE with local weights."""
    batch_size: PositiveInt = 64
    """Images encoded at once."""


@dataclass(frozen=True)
class TableSettings:
    """How .csv and .tsv tables are written; a Parquet table says it itself."""

    separator: str = ""
    """Character between two fields; default a comma for .csv, a tab (`\\t`) for .tsv."""
    encoding: str = "utf-8"
    """Encoding of the characters, such as latin-1, cp1252 or utf-16."""
    quotes: Quotes = "auto"
    """double: a field may stand between quotation marks, and two of them in it are one; none: they
    are characters as others are; auto: double for .csv, none for .tsv."""


@dataclass(frozen=True)
class Settings:
    """All settings of a preparation."""

    interactions: str
    """Table of interactions, one a row: .csv, .tsv or .parquet, with a header."""
    out: str
    """Dataset folder to write; new or empty."""
    columns: list[str] | str = ""
    """Names of all columns of the interactions in their order, for a table without a header."""
    user_column: str = "user_id"
    """Column of raw user ids, texts or numbers."""
    item_column: str = "item_id"
    """Column of raw item ids, texts or numbers."""
    rating_column: str = ""
    """Column of ratings, with min_rating; without them every row counts."""
    min_rating: float | None = None
    """Rows with a lower rating, or without one, are left out; needs rating_column."""
    time_column: str = ""
    """Column of times: numbers, or dates in ISO 8601 such as 2024-03-01T12:30:00; for others see
    time_format."""
    time_format: str = ""
    """Format of the texts in time_column, in the manner of strptime: `%d/%m/%Y`, or with the time
    `%d/%m/%Y %H:%M:%S`. `%.f` is the fraction of a second with its point."""
    items: str = ""
    """Table of items, one a row: .csv, .tsv or .parquet, with a header."""
    items_columns: list[str] | str = ""
    """Names of all columns of the items table in their order, for one without a header."""
    items_id_column: str = ""
    """Column of raw item ids in the items table and in feature tables; default item_column."""
    features: list[str] | str = ""
    """Ready features: MODALITY=FILE, or a list of these. FILE is an .npz (arrays `ids`,
    `features`), a .parquet (the id column, and numeric columns or one column of lists), or
    X.npy@IDS with IDS a .json list or a text file of one raw id a line."""
    table: TableSettings = field(default_factory=TableSettings)
    text: TextSettings = field(default_factory=TextSettings)
    image: ImageSettings = field(default_factory=ImageSettings)
    core: CoreSettings = field(default_factory=CoreSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    cache: str = ""
    """Folder of what encoders returned; default ~/.cache/mmssl_jax, or under XDG_CACHE_HOME."""


def text_columns(text: TextSettings) -> list[str]:
    """The columns whose texts are joined; empty when there is no such modality."""
    return listed(text.column)


def listed(value: list[str] | str) -> list[str]:
    """One text or several as a list, without empty ones."""
    return [entry for entry in (value if isinstance(value, list) else [value]) if entry]


def has_images(image: ImageSettings) -> bool:
    """Whether there is a modality of images."""
    return bool(image.folder or image.column)


def feature_files(settings: Settings) -> dict[str, str]:
    """{modality: file, with its ids file behind an @} of ready features."""
    found: dict[str, str] = {}
    for entry in listed(settings.features):
        modality, separator, file = entry.partition("=")
        if not separator or not modality or not file:
            raise ConfigError(f"features has {shown(entry)}, expected MODALITY=FILE")
        if modality in found:
            raise ConfigError(f"features names modality {shown(modality)} twice")
        found[modality] = file
    return found


def check_settings(settings: Settings) -> None:
    """Raises ConfigError for settings that are valid alone but not together."""
    if settings.split.validation + settings.split.test >= 1:
        raise ConfigError(
            f"split.validation {settings.split.validation} and split.test {settings.split.test} "
            "leave nothing for training: their sum must be below 1"
        )
    if not settings.split.validation and settings.split.method != "leave_one_out":
        raise ConfigError(
            "split.validation is 0, but train.py chooses the best epoch by validation: give it a "
            "share, such as 0.1"
        )
    _check_time_format(settings)
    if (settings.min_rating is None) == bool(settings.rating_column):
        raise ConfigError(
            "rating_column and min_rating go together: the column, and the least rating that counts"
        )
    if settings.split.method in ("time_per_user", "global_time") and not settings.time_column:
        raise ConfigError(f"split.method {settings.split.method} needs time_column")
    if settings.user_column == settings.item_column:
        raise ConfigError(
            f"user_column and item_column are both {shown(settings.user_column)}, expected two"
        )
    _check_modalities(settings)


def _check_time_format(settings: Settings) -> None:
    found = settings.time_format
    if found and not settings.time_column:
        raise ConfigError("time_format needs time_column: the column of these texts")
    codes = re.findall(r"%(?:%|\.f|\.?[369]f|:*z|#z|[-_0]?[A-Za-z]|.?)", found)
    if "%f" in codes:  # the reader would take .5 for five nanoseconds
        raise ConfigError(
            f"time_format {shown(found)} has %f: write %.f, the fraction of a second with its "
            "point, or %3f, %6f or %9f, its digits alone"
        )
    wrong = [code for code in codes if code != "%%" and not code[-1].isalpha()]
    if wrong:
        raise ConfigError(
            f"time_format {shown(found)} has {wrong[0]!r}, which is no code; expected codes "
            "such as %d, %m, %Y, %H, %M, %S, and %% for a percent sign"
        )


def _check_modalities(settings: Settings) -> None:
    text, image = settings.text, settings.image
    names = list(feature_files(settings))
    for group, chosen, is_wanted in (
        ("text", text, bool(text_columns(text))),
        ("image", image, has_images(image)),
    ):
        if not is_wanted:
            continue
        names.append(chosen.modality)
        if not chosen.model and ":" not in chosen.encoder:
            raise ConfigError(
                f"{group}.model is empty: name the model of encoder {chosen.encoder}, a local one "
                "or one that its library downloads"
            )
    if not names:
        raise ConfigError(
            "no modality: give item content with --text.column, --image.folder, --image.column or "
            "--features"
        )
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"modality {shown(name)} has several sources: rename one")
        is_name = name == Path(name).name and name.isprintable() and len(name.encode()) <= 100
        if not name or not is_name or name.startswith("."):
            raise ConfigError(f"modality {shown(name)} cannot be part of a file name")
    if (text_columns(text) or image.column) and not settings.items:
        raise ConfigError("text.column and image.column need items: the table that has the column")
