"""Paths of the settings: `~` is the home folder, and what is to be read is a regular file."""

import dataclasses
import stat
from pathlib import Path

from mmssl_jax.config import ConfigError
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.files import kind_name, user_path
from mmssl_jax.messages import shown
from mmssl_jax.prepare.settings import Settings, feature_files


def input_file(text: str | Path) -> Path:
    """A regular file, or a link to one; nothing is opened.

    Raises DatasetError for what is not there, may not be looked at, or is a folder, pipe or device.
    """
    path = user_path(text)
    try:
        kind = path.stat().st_mode
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DatasetError(f"{path}: cannot be read ({reason_of(error)})") from error
    if not stat.S_ISREG(kind):
        raise DatasetError(f"{path}: is a {kind_name(kind)}, expected a file")
    return path


def reason_of(error: Exception) -> str:
    """Why, in one line, without the path that the message names already."""
    lines = str(error).splitlines() or [type(error).__name__]
    return getattr(error, "strerror", None) or lines[0]


def split_features(file: str) -> tuple[Path, Path | None]:
    """The file of features and that of its ids, which follows the @ of FILE.npy@IDS.

    Any other @ is part of a path.
    """
    place = file.lower().find(".npy@")
    if place < 0:
        return user_path(file), None
    return user_path(file[: place + 4]), user_path(file[place + 5 :])


def with_home(settings: Settings) -> Settings:
    """The settings with `~` expanded in every path; raises ConfigError for a path with a NUL."""
    text, image = settings.text, settings.image
    features = []
    for modality, file in feature_files(settings).items():
        parts = [str(part) for part in split_features(file) if part is not None]
        features.append(f"{modality}={'@'.join(parts)}")
    found = dataclasses.replace(
        settings,
        interactions=_home("interactions", settings.interactions),
        out=_home("out", settings.out),
        items=_home("items", settings.items),
        cache=_home("cache", settings.cache),
        features=features,
        text=dataclasses.replace(text, model=_home("text.model", text.model)),
        image=dataclasses.replace(
            image,
            folder=_home("image.folder", image.folder),
            model=",".join(_home("image.model", part) for part in image.model.split(",")),
        ),
    )
    for name in ("interactions", "out"):
        if not getattr(found, name):
            raise ConfigError(f"{name} is empty, expected a path")
    return found


def _home(name: str, text: str) -> str:
    if "\0" in text:
        raise ConfigError(f"{name} is {shown(text)}: no path holds a NUL character")
    return str(user_path(text)) if text.startswith("~") else text
