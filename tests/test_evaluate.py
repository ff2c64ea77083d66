import json
import logging
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.method import Vectors
from mmssl_jax.ranking.baselines import popularity_vectors, random_vectors
from mmssl_jax.ranking.evaluate import HeldOut, block_sums, make_evaluator, user_blocks
from mmssl_jax.ranking.lists import Scoring

GOLDEN = Path(__file__).parent / "parity" / "golden"
N_USERS, N_ITEMS, KS = 61, 40, (3, 10, 25)
TRANSFORMS = ("pmap", "shard_map")


@pytest.fixture(scope="module")
def problem():
    """Random splits in which some users hold out nothing and some have nearly every item seen."""
    rng = np.random.default_rng(3)
    train, validation, test = [], [], []
    for user in range(N_USERS):
        items = rng.permutation(N_ITEMS)
        n_validation, n_test = (0, 0) if user % 7 == 0 else rng.integers(1, 6, size=2)
        n_train = N_ITEMS - 11 if user % 9 == 1 else rng.integers(0, 12)
        cuts = np.cumsum([n_train, n_validation, n_test])
        for split, chosen in zip((train, validation, test), np.split(items, cuts), strict=False):
            split += [(user, item) for item in chosen]
    splits = [np.asarray(split, np.int32) for split in (train, validation, test)]
    users = rng.normal(size=(N_USERS, 6)).astype(np.float32)
    items = rng.normal(size=(N_ITEMS, 6)).astype(np.float32)
    return (*splits, users, items)


def brute_force(seen, held_out, user_vectors, item_vectors, ks=KS):
    """The metrics user by user, with sorted lists and Python loops."""
    totals, n_users = {}, 0
    for user in np.unique(held_out[:, 0]):
        wanted = set(held_out[held_out[:, 0] == user, 1].tolist())
        known = set(seen[seen[:, 0] == user, 1].tolist())
        score = item_vectors.astype(np.float64) @ user_vectors[user]
        candidates = [i for i in range(len(item_vectors)) if i not in known]
        ranked = sorted(candidates, key=lambda i: -score[i])[: max(ks)]
        rel = [float(i in wanted) for i in ranked]
        n_users += 1
        for k in ks:

            def dcg(values, k=k):
                return sum(value / np.log2(place + 2) for place, value in enumerate(values[:k]))

            hits = sum(rel[:k])
            release_ideal = dcg(sorted(rel, reverse=True))
            for name, value in {
                "recall": hits / len(wanted),
                "precision": hits / k,
                "hit_ratio": float(hits > 0),
                "ndcg": dcg(rel) / dcg([1.0] * len(wanted)),
                "release_ndcg": dcg(rel) / release_ideal if release_ideal else 0.0,
            }.items():
                totals[f"{name}@{k}"] = totals.get(f"{name}@{k}", 0.0) + value
    averages = {name: total / n_users for name, total in totals.items()}
    return {**averages, "users": n_users}


def evaluator_of(train, held_out, n_devices=1, transform="pmap", also_seen=None, **settings):
    """An evaluator that is called with the vectors of users and items."""
    devices = jax.local_devices()[:n_devices]
    split = HeldOut(N_USERS, N_ITEMS, train, held_out, also_seen)
    evaluator = make_evaluator(split, Scoring(**{"ks": KS, **settings}), devices, transform)
    return lambda users, items: evaluator(Vectors(users, items))


@pytest.mark.parametrize("mask_validation", [False, True])
def test_metrics_are_those_of_a_brute_force_count(problem, mask_validation):
    train, validation, test, users, items = problem
    seen = np.concatenate([train, validation]) if mask_validation else train

    evaluator = evaluator_of(
        train, test, block_users=16, also_seen=validation if mask_validation else None
    )

    expected = brute_force(seen, test, users, items)
    assert evaluator(users, items) == pytest.approx(expected, abs=1e-6)
    assert expected["ndcg@25"] < expected["release_ndcg@25"]


def test_masking_the_validation_items_changes_the_test_metrics(problem):
    train, validation, test, users, items = problem
    plain = evaluator_of(train, test)(users, items)
    masked = evaluator_of(train, test, also_seen=validation)(users, items)
    assert masked["recall@10"] > plain["recall@10"]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("n_devices", [1, 4])
@pytest.mark.parametrize("block_users", [1, 5, 512])
def test_devices_and_blocks_do_not_change_the_metrics(problem, transform, n_devices, block_users):
    train, _, test, users, items = problem
    evaluator = evaluator_of(train, test, n_devices, transform, block_users=block_users)
    assert evaluator(users, items) == pytest.approx(
        brute_force(train, test, users, items), abs=1e-6
    )


def test_more_devices_than_users(problem):
    train, _, test, users, items = problem
    two_users = test[np.isin(test[:, 0], [1, 2])]
    metrics = evaluator_of(train, two_users, 4)(users, items)
    assert metrics == pytest.approx(brute_force(train, two_users, users, items), abs=1e-6)


def test_held_out_pairs_in_any_order_and_twice(problem):
    train, _, test, users, items = problem
    shuffled = np.random.default_rng(0).permutation(np.concatenate([test, test[:20]]))
    assert evaluator_of(train, shuffled)(users, items) == evaluator_of(train, test)(users, items)


def test_a_k_beyond_the_catalogue(problem):
    train, _, test, users, items = problem
    ks = (5, 100)
    evaluator = evaluator_of(train, test, 1, "shard_map", ks=ks)
    expected = brute_force(train, test, users, items, ks)
    assert evaluator(users, items) == pytest.approx(expected, abs=1e-6)
    assert expected["recall@100"] == 1.0


def test_a_held_out_item_that_was_seen_is_never_a_hit(problem):
    train, _, _, users, items = problem
    metrics = evaluator_of(train, train)(users, items)
    assert metrics.pop("users") == len(np.unique(train[:, 0]))
    assert set(metrics.values()) == {0.0}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_nothing_compiles_after_the_first_evaluation(problem, transform, caplog):
    train, _, test, users, items = problem
    evaluator = evaluator_of(train, test, 4, transform, block_users=4)

    def compilations(user_vectors, item_vectors):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            evaluator(user_vectors, item_vectors)
        return [r for r in caplog.records if "Compiling" in r.getMessage()]

    assert compilations(users, items)
    assert not compilations(-users, items)
    assert not compilations(jnp.asarray(users), jnp.asarray(items))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_no_silent_transfer(problem, transform):
    train, _, test, users, items = problem
    evaluator = evaluator_of(train, test, 4, transform)
    on_device = jax.device_put((users, items))
    first = evaluator(*on_device)
    with jax.transfer_guard("disallow"):
        assert evaluator(*on_device) == first


def shapes_in(jaxpr):
    """Shapes of every array in a jaxpr and in the jaxprs inside it."""
    for equation in jaxpr.eqns:
        for variable in (*equation.invars, *equation.outvars):
            yield variable.aval.shape
        for parameter in jax.tree.leaves(equation.params):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from shapes_in(inner)


def test_no_array_of_users_by_items(problem):
    train, _, test, users, items = problem
    dense = len(np.unique(test[:, 0])) * N_ITEMS

    def largest_array(block_users):
        blocks = user_blocks(HeldOut(N_USERS, N_ITEMS, train, test), 1, block_users)
        one_device = jax.tree.map(lambda array: array[0], blocks)
        sums = partial(block_sums, scoring=Scoring(KS))
        jaxpr = jax.make_jaxpr(sums)(Vectors(users, items), one_device)
        return max(int(np.prod(shape)) for shape in shapes_in(jaxpr.jaxpr))

    assert largest_array(8) < dense / 2
    assert largest_array(N_USERS) >= dense  # one block of all users: the search does see it


def test_blocks_hold_every_user_and_pair_once(problem):
    train, validation, test, _, _ = problem
    blocks = user_blocks(HeldOut(N_USERS, N_ITEMS, train, test, validation), 3, 7)
    users = np.unique(test[:, 0])

    assert blocks.users.shape[0] == 3
    assert blocks.users.shape[-1] <= 7
    np.testing.assert_array_equal(np.sort(blocks.users[blocks.user_mask]), users)
    assert blocks.held_out_counts.sum() == len(test)

    for (rows, items, mask), edges in (
        (blocks.train, train),
        (blocks.also_seen, validation),
        (blocks.held_out, test),
        (blocks.seen(), np.concatenate([train, validation])),
    ):
        owners = np.take_along_axis(blocks.users, rows, axis=-1)
        packed = np.stack([owners[mask], items[mask]], axis=1)
        expected = edges[np.isin(edges[:, 0], users)]
        np.testing.assert_array_equal(np.unique(packed, axis=0), np.unique(expected, axis=0))
        assert len(packed) == len(expected)


def test_blocks_share_the_seen_pairs_evenly(problem):
    train, _, test, _, _ = problem
    mask = user_blocks(HeldOut(N_USERS, N_ITEMS, train, test), 1, 13).train.mask
    assert mask.mean() > 0.8


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("n_devices", [1, 4])
def test_the_release_own_metrics(split, n_devices):
    golden = np.load(GOLDEN / "golden.npz")
    config = json.loads((GOLDEN / "config.json").read_text())
    raw = json.loads((GOLDEN / "data" / "tiny" / f"{split}.json").read_text())
    held_out = np.asarray([(int(u), i) for u, items in raw.items() for i in items], np.int32)
    np.testing.assert_array_equal(np.unique(held_out[:, 0]), golden[f"metrics/{split}/users"])

    evaluator = make_evaluator(
        HeldOut(config["n_users"], config["n_items"], golden["data/train"], held_out),
        Scoring(tuple(config["ks"]), block_users=8),
        jax.local_devices()[:n_devices],
        "pmap",
    )
    metrics = evaluator(Vectors(golden["final/user"], golden["final/item"]))

    for ours, theirs in {
        "recall": "recall",
        "precision": "precision",
        "hit_ratio": "hit_ratio",
        "release_ndcg": "ndcg",
    }.items():
        found = [metrics[f"{ours}@{k}"] for k in config["ks"]]
        np.testing.assert_allclose(found, golden[f"metrics/{split}/{theirs}"], rtol=0, atol=1e-6)


def test_popularity_ranks_by_train_degree(problem):
    train, _, test, _, _ = problem
    users, items = popularity_vectors(train, N_USERS, N_ITEMS)
    assert users.shape == (N_USERS, 1)
    np.testing.assert_array_equal(items[:, 0], np.bincount(train[:, 1], minlength=N_ITEMS))

    # Ties go to the smaller item, in the evaluator and in the stable sort of the brute force.
    expected = brute_force(train, test, np.asarray(users), np.asarray(items))
    assert evaluator_of(train, test)(users, items) == pytest.approx(expected, abs=1e-6)


def test_random_vectors_find_what_chance_finds(problem):
    _, _, test, _, _ = problem
    nothing = np.zeros((0, 2), np.int32)
    evaluator = evaluator_of(nothing, test)
    recalls = [evaluator(*random_vectors(s, N_USERS, N_ITEMS))["recall@10"] for s in range(20)]
    # About 52 users with 3 held-out items each: one recall varies by .04, their mean by .01.
    assert np.mean(recalls) == pytest.approx(10 / N_ITEMS, abs=0.04)
    assert len(set(recalls)) > 10


def test_random_lists_of_users_have_little_in_common():
    """Every item is in about as many lists as chance says, binomially, and not in all or none."""
    n_users, n_items, k = 400, 200, 10
    users, items = (np.asarray(side) for side in random_vectors(0, n_users, n_items))
    top = np.argsort(-(users @ items.T), axis=1)[:, :k]
    lists = np.bincount(top.reshape(-1), minlength=n_items)
    chance = k / n_items
    assert lists.var() == pytest.approx(n_users * chance * (1 - chance), rel=0.3)
    alike = np.corrcoef(users[:50] @ items.T)[np.triu_indices(50, 1)]
    assert np.abs(alike).mean() < 0.15


def test_random_vectors_depend_on_the_seed_only():
    first, again, other = (random_vectors(seed, 5, 6)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ks": ()}, "lengths of 1 or more"),
        ({"ks": (0, 10)}, "lengths of 1 or more"),
        ({"block_users": 0}, "block_users is 0.*1 or more"),
        ({"block_items": 0}, "block_items is 0.*1 or more"),
        ({"held_out": np.zeros((0, 2), np.int32)}, "held_out is empty"),
        (
            {"held_out": np.asarray([[0, N_ITEMS]], np.int32)},
            "held_out has users up to 0 and items",
        ),
        ({"train": np.asarray([[-1, 0]], np.int32)}, "smallest index -1"),
        ({"also_seen": np.asarray([[N_USERS, 0]], np.int32)}, "also_seen has users up to 61"),
    ],
)
def test_input_that_cannot_be_evaluated_is_refused(problem, change, message):
    train, _, test, _, _ = problem
    with pytest.raises(ValueError, match=message):
        evaluator_of(**{"train": train, "held_out": test} | change)


def test_vectors_of_another_dataset_are_refused(problem):
    train, _, test, users, items = problem
    with pytest.raises(ValueError, match=r"60 user and 40 item vectors.*61 users and 40 items"):
        evaluator_of(train, test)(users[1:], items)
