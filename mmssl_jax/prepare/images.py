"""Which image file belongs to an item, and whether it can be read."""

from collections.abc import Iterable
from pathlib import Path

from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.prepare.settings import Settings
from mmssl_jax.prepare.tables import read_column

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


def image_paths(item_ids: Iterable[str], settings: Settings, id_column: str) -> list[Path | None]:
    """The image file of each item, by the path column or by name; None where there is none."""
    image = settings.image
    if image.folder and not Path(image.folder).is_dir():
        raise DatasetError(f"{image.folder}: no such folder; expected one with the items' images")
    if not image.column:
        by_name = _files_by_name(Path(image.folder))
        return [by_name.get(raw) for raw in item_ids]
    start = Path(image.folder or Path(settings.items).parent)
    rows = read_column(settings.items, id_column, [image.column])
    named = {raw: start / value for raw, (value,) in rows.items() if value}
    found = (named.get(raw) for raw in item_ids)
    return [path if path is not None and path.is_file() else None for path in found]


def _files_by_name(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        if path.stem in files:
            raise DatasetError(
                f"{folder}: item {path.stem!r} has {files[path.stem].name} and {path.name}, "
                "expected one image per item; remove one"
            )
        files[path.stem] = path
    return files


def is_readable(path: Path) -> bool:
    """Whether the whole image decodes.

    Raises DatasetError when Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise DatasetError(
            "reading images needs Pillow: install it with pip install 'mmssl_jax[encoders]'"
        ) from error
    try:
        with Image.open(path) as image:
            image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True
