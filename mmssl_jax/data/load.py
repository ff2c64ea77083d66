"""The configured dataset: read from its folder, or planted; and the configured features in it."""

import dataclasses
from pathlib import Path

from mmssl_jax.config import DataConfig
from mmssl_jax.data.controls import Draw, replace_features
from mmssl_jax.data.dataset import Dataset, DatasetError
from mmssl_jax.data.readers import read_dataset
from mmssl_jax.data.synthetic import planted_dataset
from mmssl_jax.files import user_path, user_text
from mmssl_jax.messages import shown


def load_dataset(config: DataConfig, needs_features: bool = True) -> Dataset:
    """Reads or plants the configured dataset, with the features that it has.

    needs_features: whether one without features of items is refused.
    Raises DatasetError for a dataset that cannot be used.
    """
    if config.format != "synthetic":
        names = config.modalities or None
        return read_dataset(user_text(config.path), config.format, names, needs_features)
    n_modalities = 3 if "textual" in config.modalities else 2
    dataset = planted_dataset(seed=config.seed, n_modalities=n_modalities)
    unknown = set(config.modalities) - set(dataset.modalities)
    if unknown:
        raise DatasetError(
            f"data.modalities names {shown(sorted(unknown))}; the synthetic dataset has "
            f"{list(dataset.modalities)}"
        )
    if not config.modalities:
        return dataset
    kept = {name: dataset.features[name] for name in sorted(set(config.modalities))}
    return dataclasses.replace(dataset, features=kept)


def with_controls(dataset: Dataset, config: DataConfig) -> Dataset:
    """The dataset with the features that are configured, in place of its own.

    Raises DatasetError for a modality that is not there.
    """
    draw = Draw(config.seed, float(config.misplaced))
    return replace_features(dataset, config.features, config.replaced, draw)


def require_data(config: DataConfig, run: Path) -> None:
    """Raises DatasetError, with the flag that mends it, when a run's dataset folder has moved."""
    if config.format != "synthetic" and not user_path(config.path).is_dir():
        raise DatasetError(
            f"{config.path}: no folder there, which {run} names as its dataset; if it has "
            "moved, give its place with --data.path (train.py) or --data_path (eval.py, report)"
        )
