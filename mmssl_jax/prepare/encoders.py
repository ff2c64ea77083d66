"""Encoders by name: texts or image files -> one vector each. A new one is a function and a line.

An encoder is called as `encode(inputs, model, batch_size)`, with some of the texts, or of the paths
of readable images, at a time, and returns float32 [n, d]. It may be called many times in a run, so
it keeps what it has loaded.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from mmssl_jax.config import ConfigError
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.messages import shown
from mmssl_jax.prepare.images import FORMATS

Encoder = Callable[[Sequence[str], str, int], np.ndarray]
Kind = Literal["text", "image"]


def sentence_transformers(texts: Sequence[str], model: str, batch_size: int) -> np.ndarray:
    """Embeddings of a sentence-transformers model: a local folder, or a name that it downloads."""
    loaded = _load_sentence_transformer(model)
    return loaded.encode(list(texts), batch_size=batch_size, show_progress_bar=False)


@functools.cache
def _load_sentence_transformer(model: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise DatasetError(_install("sentence-transformers", error)) from error
    try:
        return SentenceTransformer(model)
    except (OSError, ValueError) as error:
        raise DatasetError(f"text.model {shown(model)} cannot be loaded: {error}") from error


def timm(paths: Sequence[str], model: str, batch_size: int) -> np.ndarray:
    """Pooled features of a timm model, without its classifier, after its own preprocessing.

    model: NAME, which timm downloads, or NAME,FILE with local weights of that model.
    """
    network, preprocess = _load_timm(model)
    import torch
    from PIL import Image

    device = next(network.parameters()).device
    rows = []
    for start in range(0, len(paths), batch_size):
        images = []
        for path in paths[start : start + batch_size]:
            with Image.open(path, formats=FORMATS) as image:
                images.append(preprocess(image.convert("RGB")))
        with torch.inference_mode():
            rows.append(network(torch.stack(images).to(device)).float().cpu().numpy())
    return np.concatenate(rows)


@functools.cache
def _load_timm(model: str) -> tuple[Any, Any]:
    """The network, in evaluation mode on a GPU if there is one, and its preprocessing."""
    try:
        import timm
        import torch
    except ImportError as error:
        raise DatasetError(_install("timm", error)) from error
    name, _, weights = model.partition(",")
    local: dict[str, Any] = {"pretrained_cfg_overlay": {"file": weights}} if weights else {}
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0, **local)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise DatasetError(f"image.model {shown(model)} cannot be loaded: {error}") from error
    options = timm.data.resolve_model_data_config(network)
    preprocess = timm.data.create_transform(**options, is_training=False)
    return network.eval().to("cuda" if torch.cuda.is_available() else "cpu"), preprocess


def _install(package: str, error: ImportError) -> str:
    return (
        f"the encoder needs {package}, which cannot be imported ({error}): "
        "install it with pip install 'mmssl_jax[encoders]'"
    )


ENCODERS: dict[Kind, dict[str, Encoder]] = {
    "text": {"sentence-transformers": sentence_transformers},
    "image": {"timm": timm},
}


def find_encoder(kind: Kind, name: str) -> Encoder:
    """A registered encoder, or the function `package.module:function`.

    Raises ConfigError where there is none.
    """
    module, separator, function = name.partition(":")
    if not separator:
        if name not in ENCODERS[kind]:
            raise ConfigError(
                f"{kind}.encoder is {shown(name)}, expected {', '.join(ENCODERS[kind])}, or a "
                "function as package.module:function"
            )
        return ENCODERS[kind][name]
    try:
        encoder = getattr(importlib.import_module(module), function)
    except Exception as error:  # the module runs, and may raise anything
        raise ConfigError(
            f"{kind}.encoder {shown(name)} cannot be imported ({error}); expected "
            "package.module:function of a module on the Python path"
        ) from error
    if not callable(encoder):
        raise ConfigError(f"{kind}.encoder {shown(name)} is {shown(encoder)}, expected a function")
    return encoder
