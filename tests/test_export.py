"""The compiled parts lower for TPU and CUDA, on a machine that has neither."""

import jax
import numpy as np
import pytest

from mmssl_jax.config import override
from mmssl_jax.methods.mmssl.step import forward, train_steps
from mmssl_jax.parallel import AXIS, spread
from mmssl_jax.ranking.evaluate import UserBlocks, block_sums, user_blocks
from mmssl_jax.training.problem import load_problem, new_state
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
    config, sizes, state = problem.config, problem.sizes, new_state(problem)

    def epoch(state, inputs):
        return train_steps(state, inputs, config, sizes, STEPS)

    def embed(state, inputs):
        return forward(state.generator, state.learned, inputs, config, sizes, None)

    exported = export(epoch, platform, state, problem.inputs)
    assert len(exported.out_avals) > len(jax.tree.leaves(state))  # the state and the metrics
    export(embed, platform, state, problem.inputs)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_epoch_of_two_devices_lowers(platform):
    changes = {"parallel.devices": 2, "parallel.transform": "shard_map"}
    problem = load_problem(override(tiny_config("released"), changes), tiny_dataset())
    config, sizes, state = problem.config, problem.sizes, new_state(problem)
    epoch = spread(
        lambda state, inputs: train_steps(state, inputs, config, sizes, STEPS, AXIS),
        problem.devices,
        "shard_map",
        (False, False),
    )
    exported = export(epoch, platform, state, problem.inputs)
    assert exported.nr_devices == 2


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_evaluation_lowers(platform):
    data = tiny_dataset()
    blocks = user_blocks(data.train, data.test, data.n_users, 1, 16)
    share = UserBlocks(*(leaf[0] for leaf in blocks))
    vectors = np.ones((data.n_users, 8), np.float32), np.ones((data.n_items, 8), np.float32)
    export(lambda u, i, s: block_sums(u, i, s, (5, 20)), platform, *vectors, share)
