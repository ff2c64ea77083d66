"""The end of a run: its best epoch evaluated, and the baselines beside it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mmssl_jax.checkpoint import restore_record, restore_tree
from mmssl_jax.hosts import is_primary
from mmssl_jax.method import Scorer, Vectors
from mmssl_jax.ranking.baselines import RANDOM_WIDTH, popularity_vectors, random_vectors
from mmssl_jax.ranking.lists import Scoring
from mmssl_jax.ranking.per_user import PerUser, per_user_metrics, write_per_user
from mmssl_jax.records.log import write_json
from mmssl_jax.training.problem import Problem
from mmssl_jax.training.programs import Programs, held_out_pairs
from mmssl_jax.training.progress import Checkpoints


def conclude(
    problem: Problem, programs: Programs, like: Any, checkpoints: Checkpoints, run: Path
) -> dict[str, Any]:
    """Restores the best epoch, evaluates it and the baselines, and writes `result.json`; the test
    metrics of each user lie beside it, in `per_user.npz`."""
    record = restore_record(checkpoints.best)
    training = programs.training
    scorer = training.embed(training.lay_out(restore_tree(checkpoints.best, like)))
    result = {
        "best_epoch": record["progress"]["best_epoch"],
        "best_step": record["progress"]["steps"],
        **{split: evaluate(scorer) for split, evaluate in programs.evaluators.items()},
        "baselines": evaluate_baselines(problem, programs),
        "parameters": count(problem.method.learned(like.method)),
    }
    by_user = metrics_by_user(problem, scorer) if "test" in programs.evaluators else None
    if is_primary():
        if by_user is not None:
            write_per_user(run, by_user)
        write_json(run / "result.json", result)
    return result


def count(tree: Any) -> int:
    """Numbers in the arrays of a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def metrics_by_user(problem: Problem, scorer: Scorer) -> PerUser:
    """Metrics of each user on the test split."""
    return per_user_metrics(scorer, held_out_pairs(problem, "test"), Scoring.of(problem.config))


def evaluate_baselines(problem: Problem, programs: Programs) -> dict[str, dict[str, float]]:
    """Metrics of the popularity and the random ranking on the test split, if there is one."""
    dataset = problem.dataset
    if "test" not in programs.evaluators:
        return {}
    baselines = {
        "popularity": popularity_vectors(dataset.train, dataset.n_users, dataset.n_items),
        "random": random_vectors(problem.config.train.seed, dataset.n_users, dataset.n_items),
    }
    evaluate = programs.evaluators["test"]
    results = {}
    for name, vectors in baselines.items():
        # Zero channels change no score, and vectors of one width need one compilation.
        widths = [(0, 0), (0, max(0, RANDOM_WIDTH - vectors.users.shape[1]))]
        results[name] = evaluate(Vectors(*(jnp.pad(side, widths) for side in vectors)))
    return results
