"""End to end: the held-out items of the planted dataset are found."""

from pathlib import Path

import pytest

from mmssl_jax.config import override
from mmssl_jax.data.synthetic import Plan, planted_dataset
from mmssl_jax.run_config import read_config
from mmssl_jax.training.loop import fit

DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo.yaml"


def test_a_short_demo_beats_popularity_and_chance(tmp_path):
    changes = {
        "train.epochs": 12,
        "critic.hidden": (64, 32),
        "model.dim": 32,
        "optim.lr": 0.005,
        "parallel.devices": 1,
    }
    config = override(read_config(DEMO), changes)
    dataset = planted_dataset(n_users=400, n_items=300, plan=Plan(n_topics=20, width=16))
    result = fit(config, tmp_path / "run", dataset=dataset, quiet=True)
    recall = result["test"]["recall@20"]
    assert recall > 1.3 * result["baselines"]["popularity"]["recall@20"]
    assert recall > 3 * result["baselines"]["random"]["recall@20"]


@pytest.mark.slow
def test_the_demo(tmp_path):
    result = fit(read_config(DEMO), tmp_path / "run", quiet=True)
    recall = result["test"]["recall@20"]
    assert recall > 1.5 * result["baselines"]["popularity"]["recall@20"]
    assert recall > 5 * result["baselines"]["random"]["recall@20"]
