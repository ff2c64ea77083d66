"""The compiled parts lower for TPU and CUDA, on a machine that has neither."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from mmssl_jax.config import override
from mmssl_jax.layout import lay_out, make_layout, places
from mmssl_jax.method import ItemWeights, Vectors
from mmssl_jax.methods import METHODS
from mmssl_jax.methods.crossview.config import CrossViewConfig
from mmssl_jax.methods.lightgcn import LightGCNConfig
from mmssl_jax.parallel import AXIS, WHOLE, is_place, sharded, spread
from mmssl_jax.ranking.evaluate import HeldOut, block_sums, user_blocks
from mmssl_jax.ranking.lists import Scoring
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.steps import train_epoch
from tests.problems import PRESETS, STEPS, tiny_config, tiny_dataset

PLATFORMS = ("tpu", "cuda")


def export(function, platform: str, *arguments, where=None):
    """where: the places of the arguments' arrays, a sharding each, of devices there or not."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
    if where is not None:
        shapes = jax.tree.map(lambda shape, place: shape.update(sharding=place), shapes, where)
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


SPREAD = {
    "lightgcn": LightGCNConfig(),
    "crossview": override(CrossViewConfig(), {"contrast.nodes": 40, "softmax.negatives": 16}),
    **{preset: tiny_config(preset) for preset in PRESETS},
}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(
    ("case", "n_devices"),
    [
        ("lightgcn", 8),
        *(
            pytest.param(case, n, marks=pytest.mark.slow)
            for case in SPREAD
            for n in (1, 4, 8)
            if (case, n) != ("lightgcn", 8)
        ),
    ],
)
def test_a_step_with_spread_rows_lowers(case, n_devices, platform):
    """Over devices that are not there."""
    config = override(SPREAD[case], {"sampling.batch_size": 48})
    dataset = tiny_dataset()
    layout = make_layout(dataset, n_devices)
    whole = METHODS[config.method].build(config, dataset, n_devices)
    method = dataclasses.replace(whole, axis=AXIS, nodes=layout.nodes)
    inputs, key = lay_out(whole.inputs(dataset), layout, method.ROWS), jax.random.key(0)
    state = lay_out(
        whole.init(key, whole.inputs(dataset)), layout, method.ROWS, method.graph_edges()
    )
    of_state, of_inputs = places(state, method.ROWS), places(inputs, method.ROWS)
    mesh = jax.sharding.AbstractMesh((n_devices,), (AXIS,))
    of_all = of_state, WHOLE, of_inputs
    step = sharded(method.step, mesh, of_all, (of_state, WHOLE))
    where = jax.tree.map(lambda place: NamedSharding(mesh, place), of_all, is_leaf=is_place)
    exported = export(step, platform, state, key, inputs, where=where)
    assert exported.nr_devices == n_devices


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
