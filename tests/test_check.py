"""What features promise before training: counts against dense NumPy, and planted answers."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.cli import check
from mmssl_jax.cli.check import check_command, check_dataset, neighbourhood
from mmssl_jax.config import DataConfig
from mmssl_jax.data.facts import facts_of
from mmssl_jax.data.load import with_controls
from mmssl_jax.data.signal import (
    Neighbourhood,
    Ratio,
    Signal,
    co_consumed,
    degree_classes,
    light_interactions,
    signal_of,
)
from mmssl_jax.data.synthetic import planted_dataset
from tests.problems import partial_dataset, tiny_dataset, write_folder

LEAST = 4


def neighbours_by_hand(dataset, modality, k):
    """The k nearest by cosine of centred features, and who has any, by a dense product."""
    rows = dataset.features[modality].astype(np.float64)
    known = np.array(dataset.presence.get(modality, np.ones(len(rows), bool)))
    rows = np.where(known[:, None], rows - rows[known].mean(axis=0), 0.0)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    scores = np.where(known[None, :], unit @ unit.T, -np.inf)
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1)[:, :k], known


def by_hand(dataset, near, most):
    """x, r and m of every pair by loops over a dense matrix of co-consumed items."""
    together = np.zeros((dataset.n_items, dataset.n_items), bool)
    degree = np.zeros(dataset.n_items, int)
    for user in range(dataset.n_users):
        items = dataset.train[dataset.train[:, 0] == user, 1]
        if len(items) <= most:
            together[np.ix_(items, items)] = True
            degree[items] += 1
    np.fill_diagonal(together, False)
    classes = degree_classes(degree, near.known, LEAST)
    pairs, x, r, m = [], [], [], []
    for i, row in zip(near.sources, near.items, strict=True):
        others = near.known & (np.arange(dataset.n_items) != i)
        for j in row:
            like = others & (classes == classes[j]) & (np.arange(dataset.n_items) != j)
            pairs.append((i, j))
            x.append(together[i, j])
            r.append(together[i, others].mean())
            m.append(together[i, like].mean())
    return pairs, np.array(x, float), np.array(r), np.array(m)


def error_by_hand(pairs, residual, chance):
    """The square root of the sum of r_p r_q over all pairs p and q that share an item, or, where it
    is larger, over those that are the same two items."""
    sharing, same = 0.0, 0.0
    for (a, b), first in zip(pairs, residual, strict=True):
        for (c, d), second in zip(pairs, residual, strict=True):
            sharing += first * second if {a, b} & {c, d} else 0.0
            same += first * second if {a, b} == {c, d} else 0.0
    return math.sqrt(max(sharing, same)) / chance.sum()


@pytest.mark.parametrize("dataset", [tiny_dataset(), partial_dataset()], ids=["all", "partial"])
def test_the_counts_are_those_of_a_dense_matrix(dataset):
    most, k = 4, 3
    items, known = neighbours_by_hand(dataset, "visual", k)
    sources = np.flatnonzero(known)[::2]
    near = Neighbourhood(sources, items[sources], np.ones((len(sources), k), bool), known)
    found = signal_of(light_interactions(dataset, most), near, LEAST)
    pairs, x, r, m = by_hand(dataset, near, most)
    assert found.pairs == len(pairs) == k * len(sources)
    assert found.rate == pytest.approx(x.mean())
    assert 0 < x.sum() < len(x)
    for ratio, chance in ((found.random, r), (found.matched, m)):
        assert ratio.value == pytest.approx(x.sum() / chance.sum())
        assert ratio.chance == pytest.approx(chance.mean())
        expected = error_by_hand(pairs, x - ratio.value * chance, chance)
        assert ratio.error == pytest.approx(expected, rel=1e-6)


def test_the_neighbours_are_those_of_a_dense_product(monkeypatch):
    dataset = partial_dataset()
    found = []
    monkeypatch.setattr(check, "signal_of", lambda edges, near: found.append(near))
    check_dataset(dataset, dataset.train, 3, 0)
    for modality, near in zip(dataset.modalities, found, strict=True):
        items, known = neighbours_by_hand(dataset, modality, 3)
        np.testing.assert_array_equal(near.known, known)
        np.testing.assert_array_equal(near.sources, np.flatnonzero(known))
        for place, source in enumerate(near.sources):
            np.testing.assert_array_equal(near.items[place][near.found[place]], items[source])


def test_an_item_is_not_its_own_neighbour_even_among_many_like_it():
    rows = jnp.ones((9, 2)).at[8].set(0.0)
    near = neighbourhood(rows, 3, np.random.default_rng(0))
    assert not np.any(near.items[near.found].reshape(8, 3) == near.sources[:, None])
    assert near.sources.tolist() == list(range(8))


def test_a_large_catalogue_is_sampled(monkeypatch):
    monkeypatch.setattr(check, "MOST_SOURCES", 7)
    rows = jnp.asarray(tiny_dataset().features["visual"])
    near, again, other = (neighbourhood(rows, 3, np.random.default_rng(s)) for s in (0, 0, 1))
    assert len(np.unique(near.sources)) == 7
    assert near.known.all()
    np.testing.assert_array_equal(near.sources, again.sources)
    assert not np.array_equal(near.sources, other.sources)


def test_pairs_are_found_once_and_heavy_users_do_not_count():
    dataset = dataclasses.replace(
        tiny_dataset(),
        train=np.array(
            [[0, 1], [0, 2], [1, 1], [1, 2], [1, 3], [3, 0], *([4, i] for i in range(6))], np.int32
        ),
    )
    edges = light_interactions(dataset, 5)
    assert set(edges[:, 0].tolist()) == {0, 1, 3}
    place, other = co_consumed(edges, np.array([3, 1, 0]), dataset.n_items)
    found = [*zip(place.tolist(), other.tolist(), strict=True)]
    assert found == [(0, 1), (0, 2), (1, 2), (1, 3)]


def test_classes_hold_enough_items_of_about_the_same_degree():
    degrees = np.array([0, 0, 0, 1, 1, 2, 5, 9, 9, 9, 40])
    everyone = np.ones(11, bool)
    assert degree_classes(degrees, everyone, 3).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]
    assert degree_classes(degrees, everyone, 99).tolist() == [0] * 11
    assert len(set(degree_classes(degrees, everyone, 1).tolist())) == 6


# What is said ------------------------------------------------------------------------------------


def signals(dataset):
    edges = light_interactions(dataset)
    return {name: found.signal for name, found in check_dataset(dataset, edges, 10, 0).items()}


def test_planted_features_carry_signal_and_shuffled_ones_none():
    planted = planted_dataset()
    for signal in signals(planted).values():
        assert signal.verdict == "signal"
        assert signal.matched.value > 2
    for control in ("shuffled", "noise"):
        replaced = with_controls(planted, DataConfig(features=control))
        for signal in signals(replaced).values():
            assert signal.verdict == "none"
            assert abs(signal.matched.value - 1) < 0.3
    # The halfway house: what remains of the signal is in between.
    partly = with_controls(planted, DataConfig(features="misplaced", misplaced=0.5))
    for name, signal in signals(partly).items():
        assert 1 < signal.matched.value < signals(planted)[name].matched.value


def test_features_that_tell_popularity_alone_are_no_signal():
    planted = planted_dataset()
    degree = np.bincount(planted.train[:, 1], minlength=planted.n_items)
    rng = np.random.default_rng(0)
    popular = np.where(degree[:, None] > np.median(degree), 3.0, -3.0)
    rows = (popular * np.ones((1, 8)) + rng.normal(size=(planted.n_items, 8))).astype(np.float32)
    (signal,) = signals(dataclasses.replace(planted, features={"fame": rows})).values()
    assert signal.random.value > 1.3
    assert signal.matched.value < 1.15


@pytest.mark.parametrize(
    ("ratio", "error", "pairs", "verdict"),
    [(2.0, 0.2, 9999, "signal"), (2.0, 0.4, 9999, "little"), (2.0, 0.6, 9999, "none"),
     (0.5, 0.1, 9999, "none"), (9.0, 0.1, 400, "unknown"), (math.nan, math.nan, 9999, "unknown")],
)  # fmt: skip
def test_the_verdict_is_cautious(ratio, error, pairs, verdict):
    matched = Ratio(ratio, error, 0.01)
    assert Signal(pairs, 0.02, matched, matched).verdict == verdict


def test_nothing_can_be_told_without_users_of_several_items():
    plain = tiny_dataset()
    _, first = np.unique(plain.train[:, 0], return_index=True)
    for signal in signals(dataclasses.replace(plain, train=plain.train[first])).values():
        assert signal.verdict == "unknown"
        assert math.isnan(signal.matched.value)


@pytest.mark.parametrize("row", [[0, 0, 0], [1e4 / 3, -7e-4, 11]])
def test_the_same_features_for_all_carry_none(row):
    plain = tiny_dataset()
    same = np.tile(np.array(row, np.float32), (plain.n_items, 1))
    for signal in signals(dataclasses.replace(plain, features={"m": same})).values():
        assert (signal.pairs, signal.verdict) == (0, "none")


def test_facts_by_hand():
    rows = np.array(
        [[3, 4, 1], [0, 0, 0], [3, 4, 1], [0, 5, 1], [-0.0, 5, 1], [7, 0, 1], [9, 9, 9]], np.float32
    )
    present = np.array([True, True, True, True, True, True, False])
    dataset = dataclasses.replace(
        tiny_dataset(), item_ids=np.arange(7), features={"m": rows}, presence={"m": present}
    )
    facts = facts_of(dataset, "m")
    assert (facts.width, facts.zero, facts.repeated, facts.constant) == (3, 1, 4, 0)
    assert facts.missing == pytest.approx(1 / 7)
    norms = np.linalg.norm(rows[:6], axis=1)
    np.testing.assert_allclose(facts.norms, np.quantile(norms, (0.05, 0.5, 0.95)))
    whole = dataclasses.replace(dataset, features={"m": np.c_[rows[:, :1], rows * 0 + 2]})
    assert facts_of(whole, "m").constant == 3


# The command -------------------------------------------------------------------------------------


def test_the_command_prints_both_tables(tmp_path, capsys):
    folder = write_folder(partial_dataset(), tmp_path / "data")
    check_command([str(folder), "--data.modalities=[visual]", "--k=3"])
    shown = capsys.readouterr().out
    assert "visual" in shown
    assert "acoustic" not in shown
    assert "x degree-matched" in shown
    assert "constant columns" in shown
    check_command(["--data.format=synthetic"])
    shown = capsys.readouterr().out
    assert shown.count("features carry signal") == 2
    check_command(["--data.format=synthetic", "--data.features=shuffled"])
    assert capsys.readouterr().out.count("carry none that shows") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "data.path is empty"),
        (["there", "--data.path=elsewhere"], "two folders: there, and --data.path elsewhere"),
        (["nowhere-at-all"], "expected a folder"),
        (["--data.format=synthetic", "--k=0"], 'key "k"'),
        (["--data.format=synthetic", "--data.replaced=[x]"], "replaces none"),
    ],
)
def test_what_is_wrong_is_said(arguments, message, capsys):
    with pytest.raises(SystemExit) as leaving:
        check_command(arguments)
    assert leaving.value.code == 2
    assert message in capsys.readouterr().err
