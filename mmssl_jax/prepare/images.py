"""Which image file belongs to an item, and whether it can be read."""

import hashlib
import warnings
from collections.abc import Iterable
from pathlib import Path

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.messages import shown
from mmssl_jax.prepare.paths import reason_of
from mmssl_jax.prepare.settings import Settings
from mmssl_jax.prepare.tables import read_column

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
# Whatever the suffix says; others, such as EPS, would run programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


def image_paths(item_ids: Iterable[str], settings: Settings, id_column: str) -> list[Path | None]:
    """The image file of each item, by the path column or by name; None where there is none."""
    image = settings.image
    if image.folder:
        _require_folder(Path(image.folder))
    if not image.column:
        by_name = _files_by_name(Path(image.folder))
        return [by_name.get(raw) for raw in item_ids]
    start = Path(image.folder or Path(settings.items).parent)
    rows = read_column(settings, id_column, [image.column])
    named = {raw: start / value for raw, (value,) in rows.items() if value}
    found = (named.get(raw) for raw in item_ids)
    return [path if path is not None and _is_file(path) else None for path in found]


def _require_folder(folder: Path) -> None:
    try:
        if folder.is_dir():
            next(folder.iterdir(), None)
            return
        what = "a file" if folder.exists() else "no such folder"
    except OSError as error:
        what = f"cannot be read ({reason_of(error)})"
    raise DatasetError(f"{folder}: {what}; expected a folder with the items' images")


def _is_file(path: Path) -> bool:
    """Whether it is a regular file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def file_hash(path: Path) -> str | None:
    """Hex SHA-256 of the content; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _files_by_name(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        is_companion = path.name.startswith("._")  # what a Mac puts beside each file
        if is_companion or path.suffix.lower() not in SUFFIXES or not _is_file(path):
            continue
        if path.stem in files:
            raise DatasetError(
                f"{folder}: item {shown(path.stem)} has {files[path.stem].name} and {path.name}, "
                "expected one image per item; remove one"
            )
        files[path.stem] = path
    return files


def is_readable(path: Path) -> bool:
    """Whether the whole image decodes, and is no larger than Pillow takes for safe.

    Raises DatasetError when Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise DatasetError(
            "reading images needs Pillow: install it with pip install 'mmssl_jax[encoders]'"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                image.convert("RGB")
    except Exception:  # decoders raise whatever a damaged file leads them to
        return False
    return True
