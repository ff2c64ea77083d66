"""k-core, splits and the cache of `mmssl_jax.prepare`, which need NumPy alone."""

import os

import numpy as np
import pytest

from mmssl_jax.config import ConfigError
from mmssl_jax.prepare.cache import encoder_folder, load_rows, save_rows
from mmssl_jax.prepare.core import core_of
from mmssl_jax.prepare.settings import (
    ImageSettings,
    Settings,
    SplitSettings,
    TextSettings,
    check_settings,
)
from mmssl_jax.prepare.splits import TEST, TRAIN, VALIDATION, split_interactions


def core_by_hand(pairs: set, per_user: int, per_item: int) -> set:
    """Removes one user or item at a time."""
    while True:
        nodes = [("user", u) for u, _ in pairs] + [("item", i) for _, i in pairs]
        least = {"user": per_user, "item": per_item}
        poor = next((n for n in nodes if nodes.count(n) < least[n[0]]), None)
        if poor is None:
            return pairs
        side = 0 if poor[0] == "user" else 1
        pairs = {pair for pair in pairs if pair[side] != poor[1]}


@pytest.mark.parametrize(("per_user", "per_item"), [(1, 1), (2, 2), (3, 2), (2, 4), (9, 9)])
def test_core(per_user, per_item):
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((14, 12)) < 0.2)
    kept = core_of(users, items, per_user, per_item)
    found = set(zip(users[kept].tolist(), items[kept].tolist(), strict=True))
    pairs = set(zip(users.tolist(), items.tolist(), strict=True))
    assert found == core_by_hand(pairs, per_user, per_item)
    assert (len(found) < len(pairs)) == (per_user > 1)


def test_core_takes_several_rounds():
    # A chain: removing user 0 makes item 0 poor, which makes user 1 poor, and so on.
    users = np.array([0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    items = np.array([0, 0, 1, 1, 2, 3, 4, 3, 4, 3, 4])
    kept = core_of(users, items, 2, 2)
    assert users[kept].tolist() == [3, 3, 4, 4, 5, 5]


DEGREES = [1, 2, 3, 5, 10, 40]


def log(n_copies: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Users of these degrees and distinct times, in random order."""
    rng = np.random.default_rng(seed)
    users = rng.permutation(np.repeat(np.arange(len(DEGREES) * n_copies), DEGREES * n_copies))
    return users, rng.permutation(len(users))


@pytest.mark.parametrize("method", ["random", "leave_one_out", "time_per_user", "global_time"])
@pytest.mark.parametrize("seed", range(3))
def test_every_user_keeps_a_training_interaction_and_a_seed_repeats(method, seed):
    users, times = log(seed=seed)
    settings = SplitSettings(method=method, validation=0.4, test=0.5, seed=seed)
    labels, _ = split_interactions(users, times, settings)
    assert np.bincount(users[labels == TRAIN], minlength=len(DEGREES)).min() >= 1
    np.testing.assert_array_equal(labels, split_interactions(users, times, settings)[0])
    assert set(labels.tolist()) == {TRAIN, VALIDATION, TEST}


@pytest.mark.parametrize("method", ["random", "time_per_user"])
def test_shares_are_right_on_average(method):
    users, times = log(300)
    settings = SplitSettings(method=method, validation=0.1, test=0.25)
    labels, given_back = split_interactions(users, times, settings)
    assert given_back == 0
    large = np.isin(users % len(DEGREES), (3, 4, 5))  # those that a share does not exhaust
    assert abs((labels[large] == VALIDATION).mean() - 0.1) < 0.005
    assert abs((labels[large] == TEST).mean() - 0.25) < 0.005
    of_five = users % len(DEGREES) == 3
    n_test = np.bincount(users[of_five & (labels == TEST)], minlength=users.max() + 1)
    assert set(n_test[3 :: len(DEGREES)].tolist()) == {1, 2}  # 1.25 rounded by chance


def test_whole_shares_are_exact():
    users = np.repeat(np.arange(4), 30)
    labels, _ = split_interactions(users, None, SplitSettings(validation=0.1, test=0.7))
    for user in range(4):
        assert np.bincount(labels[users == user]).tolist() == [6, 3, 21]


@pytest.mark.parametrize("method", ["leave_one_out", "time_per_user"])
def test_held_out_are_each_users_last_ones(method):
    users, times = log()
    settings = SplitSettings(method=method, validation=0.2, test=0.2)
    labels, _ = split_interactions(users, times, settings)
    for user, degree in enumerate(DEGREES):
        mine = labels[users == user][np.argsort(times[users == user])]
        assert (np.diff(mine) >= 0).all()
        if method == "leave_one_out":
            assert mine.tolist()[-2:] == [[0], [0, 2], [1, 2], [1, 2], [1, 2], [1, 2]][user]
            assert (mine > 0).sum() == min(2, degree - 1)


def test_leave_one_out_without_times_is_random():
    users, _ = log()
    one, other = (
        split_interactions(users, None, SplitSettings(method="leave_one_out", seed=seed))[0]
        for seed in (0, 1)
    )
    assert (one != other).any()
    for labels in (one, other):
        held = [np.bincount(labels[users == user], minlength=3).tolist() for user in range(6)]
        assert held == [[1, 0, 0], [1, 0, 1], [1, 1, 1], [3, 1, 1], [8, 1, 1], [38, 1, 1]]


def test_global_time_cuts_at_two_moments_and_gives_back():
    users = np.array([0] * 8 + [1, 1])
    times = np.array([1, 2, 3, 4, 5, 6, 6, 7, 9, 8])
    settings = SplitSettings(method="global_time", validation=0.3, test=0.2)
    labels, given_back = split_interactions(users, times, settings)
    # The last two of ten, 8 and 9, are test; of the three before, the two 6 stay together. User 1
    # would have none left, and gets back the first one.
    assert labels.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 0]
    assert given_back == 1


def test_cache_keeps_rows_and_skips_a_torn_file(tmp_path):
    rng = np.random.default_rng(0)
    rows = {f"hash{k}": row for k, row in enumerate(rng.random((5, 3), np.float32))}
    save_rows(tmp_path / "a", dict(list(rows.items())[:2]))
    save_rows(tmp_path / "a", dict(list(rows.items())[2:]))
    (tmp_path / "a" / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    found = load_rows(tmp_path / "a")
    assert found.keys() == rows.keys()
    assert all(np.array_equal(found[key], rows[key]) for key in rows)
    assert not load_rows(tmp_path / "nothing")


def test_another_model_has_another_cache(tmp_path):
    (tmp_path / "model").mkdir()
    weights = tmp_path / "model" / "weights.bin"
    weights.write_bytes(b"1")
    os.utime(weights, (1, 1))

    def folder(kind="text", encoder="e", model=str(tmp_path / "model")):
        return encoder_folder(tmp_path, kind, encoder, model)

    assert folder() == folder()
    first = folder()
    weights.write_bytes(b"2")  # the same size, later
    assert len({first, folder(), folder("image"), folder(encoder="f"), folder(model="hub")}) == 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "no modality: give item content"),
        ({"features": "visual"}, "'visual', expected MODALITY=FILE"),
        ({"features": ["a=x.npz", "a=y.npz"]}, "modality 'a' twice"),
        ({"features": "a/b=x.npz"}, "'a/b' cannot be part of a file name"),
        ({"features": "text=x.npz", "text": TextSettings("t", encoder="m:f")}, "several sources"),
        ({"text": TextSettings("title")}, "text.model is empty"),
        ({"text": TextSettings("title", encoder="m:f")}, "need items: the table"),
        ({"image": ImageSettings("images")}, "image.model is empty"),
        ({"features": "a=x.npz", "min_rating": 4.0}, "rating_column and min_rating go together"),
        ({"features": "a=x.npz", "rating_column": "r"}, "rating_column and min_rating go together"),
        (
            {"features": "a=x.npz", "split": SplitSettings(validation=0.5, test=0.5)},
            "their sum must be below 1",
        ),
        (
            {"features": "a=x.npz", "split": SplitSettings(validation=0.0)},
            "split.validation is 0, but train.py chooses the best epoch",
        ),
        ({"features": "a=x.npz", "time_format": "%d/%m/%Y"}, "time_format needs time_column"),
        (
            {"features": "a=x.npz", "time_column": "t", "time_format": "%H:%M:%S.%f"},
            "has %f: write %.f",
        ),
        (
            {"features": "a=x.npz", "time_column": "t", "time_format": "%S%3"},
            "has '%3', which is no code",
        ),
        (
            {"features": "a=x.npz", "time_column": "t", "time_format": "%%f %.f %3f %:z %"},
            "has '%', which is no code",
        ),
        (
            {"features": "a=x.npz", "split": SplitSettings("global_time")},
            "split.method global_time needs time_column",
        ),
    ],
)
def test_settings_that_do_not_fit_together(changes, says):
    with pytest.raises(ConfigError, match=says):
        check_settings(Settings(interactions="log.csv", out="out", **changes))
