"""The compiled parts lower for TPU and CUDA, on a machine that has neither."""

import dataclasses

import jax
import numpy as np
import pytest

from mmssl_jax.config import override
from mmssl_jax.method import ItemWeights, Vectors
from mmssl_jax.parallel import AXIS, spread
from mmssl_jax.ranking.evaluate import HeldOut, block_sums, user_blocks
from mmssl_jax.ranking.lists import Scoring
from mmssl_jax.training.problem import load_problem, new_state, train_epoch
from tests.problems import PRESETS, STEPS, tiny_config, tiny_dataset

PLATFORMS = ("tpu", "cuda")


def export(function, platform: str, *arguments):
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
    exported = jax.export.export(jax.jit(function), platforms=[platform])(*shapes)
    assert exported.platforms == (platform,)
    assert len(exported.mlir_module_serialized) > 1000
    return exported


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("preset", PRESETS)
def test_an_epoch_and_the_embedding_lower(preset, platform):
    problem = load_problem(tiny_config(preset), tiny_dataset())
    method, state = problem.method, new_state(problem)

    def epoch(state, inputs):
        return train_epoch(method, state, inputs, STEPS)

    def embed(state, inputs):
        return method.embed(state.method, inputs)

    exported = export(epoch, platform, state, problem.inputs)
    assert len(exported.out_avals) > len(jax.tree.leaves(state))  # the state and the metrics
    export(embed, platform, state, problem.inputs)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_epoch_of_two_devices_lowers(platform):
    changes = {"parallel.devices": 2, "parallel.transform": "shard_map"}
    problem = load_problem(override(tiny_config("released"), changes), tiny_dataset())
    method, state = dataclasses.replace(problem.method, axis=AXIS), new_state(problem)
    epoch = spread(
        lambda state, inputs: train_epoch(method, state, inputs, STEPS),
        problem.devices,
        "shard_map",
        (False, False),
    )
    exported = export(epoch, platform, state, problem.inputs)
    assert exported.nr_devices == 2


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_evaluation_lowers(platform):
    data = tiny_dataset()
    blocks = user_blocks(HeldOut(data.n_users, data.n_items, data.train, data.test), 1, 16)
    share = jax.tree.map(lambda leaf: leaf[0], blocks)
    users, items = (np.ones((n, 8), np.float32) for n in (data.n_users, data.n_items))
    every = np.broadcast_to(np.arange(data.n_items, dtype=np.int32), (data.n_items, data.n_items))
    named = ItemWeights(every, np.ones(every.shape, np.float32))
    full = named._replace(neighbours=None)
    scoring = Scoring((5, 20), 16)
    for scorer in (Vectors(users, items), named, full):
        export(lambda scorer, share: block_sums(scorer, share, scoring), platform, scorer, share)
