"""The whole preparation: log, k-core, split, content, checks, files."""

from pathlib import Path
from typing import Any

import numpy as np

from mmssl_jax.data.dataset import SPLITS, Dataset, DatasetError, unique_edges
from mmssl_jax.messages import shown
from mmssl_jax.prepare.content import Content, image_content, text_content
from mmssl_jax.prepare.core import core_of
from mmssl_jax.prepare.delimited import check_form
from mmssl_jax.prepare.encoders import find_encoder
from mmssl_jax.prepare.features import feature_content
from mmssl_jax.prepare.log import Log, read_log
from mmssl_jax.prepare.paths import with_home
from mmssl_jax.prepare.settings import (
    Settings,
    check_settings,
    feature_files,
    has_images,
    text_columns,
)
from mmssl_jax.prepare.splits import TRAIN, VALIDATION, split_interactions
from mmssl_jax.prepare.write import try_out, write_dataset


def prepare(settings: Settings) -> dict[str, Any]:
    """Writes the dataset folder; returns the summary, which is also in its prepare.json.

    Raises ConfigError or DatasetError, each with what to do about it.
    """
    settings = with_home(settings)
    check_settings(settings)
    check_form(settings.table)
    out = Path(settings.out)
    try_out(out)
    if text_columns(settings.text):
        find_encoder("text", settings.text.encoder)  # before any work
    if has_images(settings.image):
        find_encoder("image", settings.image.encoder)
    log = read_log(settings)
    counts = dict(log.counts)
    log = _core(log, settings)
    labels, given_back = split_interactions(log.users, log.times, settings.split)
    _require_validation(labels, settings)
    _require_negatives(log, labels, settings)
    contents = _contents(log, settings)
    dataset = _dataset(log, labels, contents, out)
    dataset.check()
    summary = {
        "read": counts,
        "kept": _kept(dataset, given_back),
        "modalities": {name: content.report for name, content in contents.items()},
    }
    write_dataset(dataset, out, settings, summary)
    return summary


def _core(log: Log, settings: Settings) -> Log:
    """The log of the k-core, its users and items numbered anew."""
    kept = core_of(log.users, log.items, settings.core.users, settings.core.items)
    if not kept.any():
        raise DatasetError(
            f"{settings.interactions}: nothing is left of {len(log.users)} interactions when every "
            f"user has {settings.core.users} and every item {settings.core.items}; lower "
            "core.users or core.items"
        )
    old_users, users = np.unique(log.users[kept], return_inverse=True)
    old_items, items = np.unique(log.items[kept], return_inverse=True)
    times = None if log.times is None else log.times[kept]
    return Log(
        log.user_ids[old_users], log.item_ids[old_items], users, items, times, dict(log.counts)
    )


def _require_validation(labels: np.ndarray, settings: Settings) -> None:
    """Raises DatasetError, before anything is encoded, for a split that train.py would refuse.

    Training needs no such check: a user always keeps an interaction in it.
    """
    if (labels == VALIDATION).any():
        return
    method = settings.split.method
    raise_share = f"raise split.validation, which is {settings.split.validation}"
    advice = {
        "leave_one_out": "no user has the 3 interactions that it takes; choose another "
        "split.method, or keep more interactions of a user",
        "global_time": f"{raise_share}, or choose split.method time_per_user: equal times stay "
        "together, and users without training interactions get one back",
    }.get(method, f"{raise_share}, or keep more interactions of a user: one stays in training")
    raise DatasetError(
        f"{settings.interactions}: split.method {method} leaves no validation interactions of "
        f"{len(labels)}, but train.py chooses the best epoch by them; {advice}"
    )


def _require_negatives(log: Log, labels: np.ndarray, settings: Settings) -> None:
    """Raises DatasetError, before anything is encoded, for a user who has every item in training:
    nothing is left to tell them from."""
    trained = np.bincount(log.users[labels == TRAIN], minlength=len(log.user_ids))
    full = np.flatnonzero(trained >= len(log.item_ids))
    if len(full):
        names = ", ".join(shown(str(log.user_ids[user])) for user in full[:5])
        raise DatasetError(
            f"{settings.interactions}: {len(full)} users have all {len(log.item_ids)} items in "
            f"training, the first are {names}; expected at least one item that a user has not; "
            "remove these users, or keep more items with a lower core.items"
        )


def _contents(log: Log, settings: Settings) -> dict[str, Content]:
    id_column = settings.items_id_column or settings.item_column
    item_ids = log.item_ids.tolist()
    contents = {
        name: feature_content(item_ids, file, id_column)
        for name, file in feature_files(settings).items()
    }
    if text_columns(settings.text):
        contents[settings.text.modality] = text_content(item_ids, settings, id_column)
    if has_images(settings.image):
        contents[settings.image.modality] = image_content(item_ids, settings, id_column)
    return dict(sorted(contents.items()))


def _dataset(log: Log, labels: np.ndarray, contents: dict[str, Content], out: Path) -> Dataset:
    edges = {
        split: unique_edges(log.users[labels == k], log.items[labels == k], split)
        for k, split in enumerate(SPLITS)
    }
    return Dataset(
        name=out.resolve().name,
        source=str(out),
        user_ids=log.user_ids,
        item_ids=log.item_ids,
        train=edges["train"],
        validation=edges["validation"],
        test=edges["test"],
        features={name: content.features for name, content in contents.items()},
        presence={
            name: content.present for name, content in contents.items() if not content.present.all()
        },
    )


def _kept(dataset: Dataset, given_back: int) -> dict[str, int]:
    """Counts after the k-core and the split."""
    without = np.ones(dataset.n_items, bool)
    for name in dataset.modalities:
        without &= ~dataset.presence.get(name, np.ones(dataset.n_items, bool))
    return {
        "users": dataset.n_users,
        "items": dataset.n_items,
        **{split: len(edges) for split, edges in dataset.splits.items()},
        "given_back_to_train": given_back,
        "items_without_train": dataset.n_items - len(np.unique(dataset.train[:, 1])),
        "items_without_any_modality": int(without.sum()),
    }
