"""Two encoders that need no model: a start for your own, and enough for examples/make_shop.py."""

import re
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image


def words(texts: Sequence[str], model: str, batch_size: int) -> np.ndarray:
    """Counts of hashed words, as unit rows float32 [n, 64]; takes no model."""
    counts = np.zeros((len(texts), 64), np.float32)
    for row, text in zip(counts, texts, strict=True):
        for word in re.findall(r"\w+", text.lower()) or [text]:
            row[zlib.crc32(word.encode()) % counts.shape[1]] += 1
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def colours(paths: Sequence[str], model: str, batch_size: int) -> np.ndarray:
    """Colours of the image shrunk to 4 x 4, around 0, float32 [n, 48]; takes no model."""
    rows = []
    for path in paths:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((4, 4), Image.Resampling.BOX)
        rows.append(np.asarray(small, np.float32).reshape(-1) / 127.5 - 1)
    return np.stack(rows)
