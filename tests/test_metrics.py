import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.graph.rows import RowPairs
from mmssl_jax.ranking.metrics import means, metric_names, metric_sums, relevance_of

KS = (2, 4)


def sums_of(relevance, counts, mask=None, ks=KS):
    relevance = jnp.asarray(relevance, jnp.float32)
    mask = jnp.ones(len(relevance), bool) if mask is None else jnp.asarray(mask)
    return metric_sums(relevance, jnp.asarray(counts), mask, ks)


def test_one_user_by_hand():
    # Hits at places 2 and 3 of 4; three held-out items, one of them missing from the list.
    result = means(sums_of([[0, 1, 1, 0]], [3]))

    place = {i: 1 / np.log2(i + 1) for i in (1, 2, 3)}
    expected = {
        "recall@2": 1 / 3,
        "recall@4": 2 / 3,
        "precision@2": 1 / 2,
        "precision@4": 2 / 4,
        "ndcg@2": place[2] / (place[1] + place[2]),
        "ndcg@4": (place[2] + place[3]) / (place[1] + place[2] + place[3]),
        "hit_ratio@2": 1,
        "hit_ratio@4": 1,
        "release_ndcg@2": place[2] / (place[1] + place[2]),
        "release_ndcg@4": (place[2] + place[3]) / (place[1] + place[2]),
        "users": 1,
    }
    assert result == pytest.approx(expected, abs=1e-6)


def test_release_ndcg_takes_its_ideal_from_the_longest_list():
    # One hit in the first two, a second one further down: the release's ideal at 2 has both.
    result = means(sums_of([[1, 0, 0, 1]], [2]))
    assert result["release_ndcg@2"] == pytest.approx(1 / (1 + 1 / np.log2(3)), abs=1e-6)

    alone = means(sums_of([[1, 0, 0, 1]], [2], ks=(2,)))
    assert alone["release_ndcg@2"] == pytest.approx(1.0, abs=1e-6)
    assert alone["ndcg@2"] == pytest.approx(1 / (1 + 1 / np.log2(3)), abs=1e-6)


def test_the_two_ndcgs_agree_for_one_held_out_item():
    result = means(sums_of(np.eye(4), [1, 1, 1, 1]))
    for k in KS:
        assert result[f"ndcg@{k}"] == result[f"release_ndcg@{k}"]
    assert result["ndcg@2"] == pytest.approx((1 + 1 / np.log2(3)) / 4, abs=1e-6)


def test_no_hit_is_zero_and_not_a_number():
    result = means(sums_of([[0, 0, 0, 0]], [2]))
    assert result.pop("users") == 1
    assert set(result.values()) == {0.0}


def test_masked_users_and_users_without_held_out_items_do_not_count():
    first = [0, 1, 0, 0]
    sums = sums_of([first, [1, 1, 1, 1], [0, 0, 0, 0]], [2, 4, 0], [True, False, True])
    assert float(sums["users"]) == 1
    assert means(sums) == means(sums_of([first], [2]))


def test_sums_of_two_blocks_add_up_to_those_of_one():
    rng = np.random.default_rng(1)
    relevance, counts = rng.integers(0, 2, size=(10, 4)), rng.integers(4, 7, size=10)
    first, second = sums_of(relevance[:3], counts[:3]), sums_of(relevance[3:], counts[3:])
    merged = jax.tree.map(jnp.add, first, second)
    assert means(merged) == pytest.approx(means(sums_of(relevance, counts)), abs=1e-6)


def test_a_k_beyond_the_catalogue_still_divides_by_k():
    result = means(sums_of([[1, 0, 1]], [2], ks=(3, 10)))
    assert result["precision@10"] == pytest.approx(2 / 10, abs=1e-6)
    assert result["recall@10"] == 1.0
    assert result["ndcg@10"] == result["ndcg@3"]


def test_names_are_those_of_the_sums():
    assert set(metric_names(KS)) == set(sums_of([[0, 0, 0, 0]], [1]))
    assert metric_names((20,))[-1] == "users"
    assert "release_ndcg@20" in metric_names((20,))


def test_no_user_is_an_error():
    with pytest.raises(ValueError, match="no user"):
        means({"recall@2": 0.0, "users": 0.0})


def test_relevance_marks_the_places_of_the_held_out_items():
    items = jnp.asarray([[4, 2, 7], [1, 4, 0]])
    scores = jnp.asarray([[3.0, 2.0, 1.0], [3.0, 2.0, -jnp.inf]])
    rows, held_out = jnp.asarray([0, 0, 0, 1, 1, 0]), jnp.asarray([7, 4, 5, 4, 0, 2])
    mask = jnp.asarray([True, True, True, True, True, False])

    found = relevance_of(scores, items, RowPairs(rows, held_out, mask))

    # Item 0 of row 1 is listed with score -inf, and item 2 of row 0 is padding: neither is a hit.
    np.testing.assert_array_equal(found, [[1, 0, 1], [0, 1, 0]])
