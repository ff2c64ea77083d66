"""What Dataset.check() refuses and says, and what the fingerprint and the summary hold."""

import re
import time
from dataclasses import replace

import numpy as np
import pytest

from mmssl_jax.data import Dataset, DatasetError, DatasetWarning
from mmssl_jax.data.dataset import unique_edges

EDGES = {
    "train": [[0, 0], [0, 2], [1, 1]],
    "validation": [[0, 1]],
    "test": [[1, 3], [2, 0]],
}


def edges(pairs: list[list[int]]) -> np.ndarray:
    return np.array(pairs, np.int32).reshape(-1, 2)


def small(**changes) -> Dataset:
    """Four users, of whom the last has nothing, and five items."""
    base = Dataset(
        name="small",
        source="here",
        user_ids=np.arange(4),
        item_ids=np.arange(5),
        features={
            "image": np.ones((5, 3), np.float32),
            "text": np.zeros((5, 2), np.float32),
        },
        files={"train": "train.json", "test": "test.json", "image": "image_feat.npy"},
        **{split: edges(pairs) for split, pairs in EDGES.items()},
    )
    return replace(base, **changes)


def with_image(rows: np.ndarray) -> Dataset:
    return small(features={"image": rows})


def refused(data: Dataset, *parts: str) -> None:
    with pytest.raises(DatasetError) as error:
        data.check()
    for part in parts:
        assert part in str(error.value)


def test_cold_users_and_items_are_legal():
    small().check()


def test_empty_held_out_split_is_legal():
    small(validation=edges([])).check()


def test_sizes_and_modalities():
    data = small()
    assert (data.n_users, data.n_items, data.modalities) == (4, 5, ("image", "text"))
    assert list(data.splits) == ["train", "validation", "test"]


def test_no_modality():
    refused(small(features={}), "no modality", "expected at least one <modality>_feat.npy")


def test_disagreeing_feature_rows():
    features = {"image": np.ones((5, 3), np.float32), "text": np.ones((4, 3), np.float32)}
    refused(
        small(features=features),
        "image_feat.npy has 5 rows, features of text has 4 rows",
        "expected the same number",
    )


def test_feature_rows_other_than_items():
    refused(
        with_image(np.ones((6, 3), np.float32)), "image_feat.npy: 6 rows", "each of the 5 items"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_features(value):
    rows = np.ones((5, 3), np.float32)
    rows[3, 1] = rows[4, :] = value
    refused(with_image(rows), "image_feat.npy: 4 values", "first in row 3", "expected finite")


@pytest.mark.parametrize("shape", [(5,), (5, 0), (0, 3), (5, 3, 1)])
def test_feature_shape(shape):
    refused(with_image(np.ones(shape, np.float32)), f"shape {shape}", "expected 2-d")


def test_feature_dtype():
    refused(with_image(np.ones((5, 3))), "image_feat.npy: dtype float64", "expected float32")


def test_item_beyond_the_features():
    refused(
        small(train=edges([[0, 0], [1, 5]])),
        "train.json: user 1 has item 5",
        "item ids 0 to 4",
        "features have 5 rows",
    )


def test_negative_item():
    refused(small(test=edges([[2, -1]])), "test.json: user 2 has item -1", "item ids 0 to 4")


@pytest.mark.parametrize("user", [-1, 4])
def test_user_out_of_range(user):
    refused(small(test=edges([[user, 1]])), f"test.json: user {user} with", "user ids 0 to 3")


@pytest.mark.parametrize("wrong", [np.zeros((2, 2)), np.zeros((2, 3), np.int32), edges([])[0:0, 0]])
def test_form_of_a_split(wrong):
    refused(small(train=wrong), "train.json:", "expected int32 [interactions, 2]")


@pytest.mark.parametrize("pairs", [[[1, 1], [0, 0]], [[0, 0], [0, 0]], [[0, 2], [0, 1]]])
def test_unsorted_or_repeated_pairs(pairs):
    refused(small(train=edges(pairs)), "train.json: pairs are unsorted or repeated", "unique_edges")


def test_no_training_interactions():
    refused(small(train=edges([])), "train.json: no training interactions", "expected at least one")


def test_pair_in_two_splits():
    refused(
        small(test=edges([[0, 2], [1, 1], [2, 0]])),
        "train.json and test.json: 2 (user, item) pairs are in both",
        "user 0, item 2",
        "expected each pair in one split",
    )


def test_pair_in_validation_and_test():
    refused(small(test=edges([[0, 1]])), "validation and test.json: 1 (user, item)")


def test_user_without_negatives():
    everything = edges([[0, 0], [1, 0], [1, 1], [1, 2], [1, 3], [1, 4]])
    refused(
        small(train=everything, validation=edges([]), test=edges([])),
        "train.json: user 1 has all 5 items in training",
        "expected at least one left over as a negative",
    )


def test_duplicates_are_merged_and_counted():
    users, items = np.array([2, 0, 2, 2, 0]), np.array([1, 3, 1, 1, 0])
    with pytest.warns(
        DatasetWarning, match=r"a\.json: merged 2 duplicate .* first is user 2, item 1"
    ):
        found = unique_edges(users, items, "a.json")
    assert found.dtype == np.int32
    assert found.tolist() == [[0, 0], [0, 3], [2, 1]]


def test_unique_edges_of_nothing():
    assert unique_edges(np.zeros(0, int), np.zeros(0, int), "a").shape == (0, 2)


def test_fingerprint_does_not_depend_on_name_or_place():
    assert small().fingerprint() == small(name="other", source="there", files={}).fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", small().fingerprint())


@pytest.mark.parametrize(
    "changes",
    [
        {"train": edges([[0, 0], [0, 2], [1, 4]])},
        {"validation": edges([])},
        {"test": edges([[1, 3]])},
        {"user_ids": np.arange(5)},
        {"user_ids": np.array(["0", "1", "2", "3"])},
        {"item_ids": np.array([1, 0, 2, 3, 4])},
        {"features": {"image": np.ones((5, 3), np.float32)}},
        {"features": {"image": np.ones((5, 3), np.float32), "txt": np.zeros((5, 2), np.float32)}},
        {"features": {"image": np.ones((5, 3), np.float32), "text": np.eye(5, 2, dtype="f4")}},
    ],
)
def test_fingerprint_sees_every_part(changes):
    assert small(**changes).fingerprint() != small().fingerprint()


def test_fingerprint_and_check_are_fast():
    rng = np.random.default_rng(0)
    users, items = np.divmod(rng.choice(20_000 * 7_000, 300_000, replace=False), 7_000)
    data = small(
        user_ids=np.arange(20_000),
        item_ids=np.arange(7_000),
        train=unique_edges(users, items, "random"),
        validation=edges([]),
        test=edges([]),
        features={"image": rng.normal(size=(7_000, 64)).astype(np.float32)},
    )
    start = time.perf_counter()
    data.check()
    data.fingerprint()
    assert time.perf_counter() - start < 2


def test_summary_holds_every_number():
    text = dict(re.split(r"  +", line, maxsplit=1) for line in small().summary().splitlines())
    assert text == {
        "dataset": "small (here)",
        "users": "4",
        "items": "5",
        "train interactions": "3",
        "validation interactions": "1",
        "test interactions": "2",
        "density, all splits": "30.0000%",
        "modality image": "width 3",
        "modality text": "width 2",
        "users without training interactions": "2",
        "items without training interactions": "2",
    }
