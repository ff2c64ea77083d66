"""A planted dataset whose right answers are known.

Every user likes a few latent topics and every item is about two. What a user picks depends on the
match and on how popular the item is. Each modality shows the topics only after merging them in
pairs, each modality in other pairs, and under noise. So features tell what new and rare items are
about, but not precisely; interactions tell it precisely, but most users and items have few.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmssl_jax.data.dataset import SPLITS, Dataset, unique_edges

MODALITIES = ("visual", "acoustic", "textual")


class Plan(NamedTuple):
    """What shapes a planted dataset beside its numbers of users, items and modalities.

    width: features per item. noise: standard deviation of the features' noise, whose signal has
    unit variance. mean_extra: mean number of interactions per user above the least number, 3.
    """

    n_topics: int = 40
    width: int = 32
    noise: float = 1.2
    mean_extra: float = 4.0


DEFAULT_PLAN = Plan()


def planted_dataset(
    seed: int = 0,
    n_users: int = 1200,
    n_items: int = 800,
    n_modalities: int = 2,
    plan: Plan = DEFAULT_PLAN,
) -> Dataset:
    """A checked Dataset drawn from planted_vectors; equal arguments give equal data.

    n_modalities: 2 (visual, acoustic) or 3 (and textual; the rest stays the same).
    Raises ValueError on another n_modalities.
    """
    if n_modalities not in (2, 3):
        raise ValueError(f"n_modalities is {n_modalities}, expected 2 or 3")
    tastes, topics, bias = _truth(seed, n_users, n_items, plan.n_topics)
    splits = _draw_splits(np.random.default_rng([seed, 1]), tastes, topics, bias, plan.mean_extra)
    rng = np.random.default_rng([seed, 2])
    names = MODALITIES[:n_modalities]
    features = {name: _features(rng, topics, plan.width, plan.noise) for name in names}
    dataset = Dataset(
        name=f"planted-{seed}",
        source="mmssl_jax.data.synthetic",
        user_ids=np.arange(n_users),
        item_ids=np.arange(n_items),
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        features=dict(sorted(features.items())),
    )
    dataset.check()
    return dataset


def planted_vectors(
    seed: int = 0, n_users: int = 1200, n_items: int = 800, n_topics: int = 40
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of users [U, T + 1] and items [I, T + 1] whose inner product is the best ranking.

    It is the log-odds that planted_dataset of equal arguments draws from,
    log_odds[u, i] = strength * tastes[u] . topics[i] + log popularity[i].
    """
    tastes, topics, bias = _truth(seed, n_users, n_items, n_topics)
    users = np.concatenate([tastes, np.ones((n_users, 1))], axis=1)
    items = np.concatenate([topics, bias[:, None]], axis=1)
    return users.astype(np.float32), items.astype(np.float32)


def _truth(
    seed: int, n_users: int, n_items: int, n_topics: int, strength: float = 7.0
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """The hidden truth: scaled tastes [U, T], topics [I, T] and log popularity [I]."""
    rng = np.random.default_rng([seed, 0])
    tastes = _shares(rng, n_users, n_topics, kept=3)
    topics = _shares(rng, n_items, n_topics, kept=2)
    popularity = (rng.permutation(n_items) + 1.0) ** -0.7
    return strength * tastes, topics, np.log(popularity)


def _shares(rng: np.random.Generator, rows: int, n_topics: int, kept: int) -> NDArray[np.float32]:
    """Unit rows [rows, T] with `kept` nonzero entries at random places."""
    chosen = rng.random((rows, n_topics)).argsort(axis=1)[:, :kept]
    weights = rng.gamma(1.0, size=(rows, kept)) + 0.2
    shares = np.zeros((rows, n_topics), np.float32)
    np.put_along_axis(shares, chosen, weights.astype(np.float32), axis=1)
    return shares / np.linalg.norm(shares, axis=1, keepdims=True)


def _features(
    rng: np.random.Generator, topics: NDArray[np.float32], width: int, noise: float
) -> NDArray[np.float32]:
    """One modality [I, width]: topics merged in random pairs, mixed, standardised, with noise."""
    n_topics = topics.shape[1]
    groups = np.eye(n_topics)[rng.permutation(n_topics) // 2][:, : (n_topics + 1) // 2]
    signal = topics @ groups @ rng.normal(size=(groups.shape[1], width))
    signal = (signal - signal.mean(axis=0)) / signal.std(axis=0)
    return (signal + noise * rng.normal(size=signal.shape)).astype(np.float32)


def _draw_splits(
    rng: np.random.Generator,
    tastes: NDArray[np.float32],
    topics: NDArray[np.float32],
    bias: NDArray[np.float64],
    mean_extra: float,
    block: int = 256,
) -> dict[str, NDArray[np.int32]]:
    """Interactions without replacement by Gumbel top-k, then a random part of each user's held out.

    One test item for every user and a second from 8 interactions on, one validation item from 4 on.
    One user in a hundred has a single interaction, hence none in training.
    """
    n_users, n_items = len(tastes), len(topics)
    drawn = 2 + rng.geometric(1 / (1 + mean_extra), n_users)
    single = rng.random(n_users) < 0.01
    degrees: NDArray[np.int64] = np.where(single, 1, np.minimum(drawn, n_items // 4))
    longest = degrees.max()
    ranked = np.concatenate(
        [
            np.argsort(-(part @ topics.T + bias + rng.gumbel(size=(len(part), n_items))), axis=1)[
                :, :longest
            ]
            for part in np.array_split(tastes, -(-n_users // block))
        ]
    )
    taken = np.arange(longest)[None, :] < degrees[:, None]
    users, places = np.nonzero(taken)
    items = ranked[users, places]
    shuffled = np.argsort(np.where(taken, rng.random(taken.shape), 2.0), axis=1)
    turn = np.argsort(shuffled, axis=1)[users, places]  # a random order within each user
    n_test = 1 + (degrees >= 8)[users]
    n_held = n_test + (degrees >= 4)[users]
    split = np.select([turn < n_test, turn < n_held], [2, 1], 0)
    return {
        name: unique_edges(users[split == k], items[split == k], name)
        for k, name in enumerate(SPLITS)
    }
