"""What is compiled, and when: no recompilation, no host copies, no users x items array."""

import contextlib
import logging

import jax
import numpy as np
import pytest

from mmssl_jax.data.synthetic import Plan, planted_dataset
from mmssl_jax.method import Vectors
from mmssl_jax.methods.mmssl.step import rebuild
from mmssl_jax.ranking.evaluate import HeldOut, block_sums, user_blocks
from mmssl_jax.ranking.lists import Scoring
from mmssl_jax.training import epochs
from mmssl_jax.training.loop import fit
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_programs
from mmssl_jax.training.steps import train_steps
from tests.problems import PRESETS, STEPS, tiny_config, tiny_dataset

TRANSFORMS = ("pmap", "shard_map")


@contextlib.contextmanager
def compilations():
    """The names of what is compiled meanwhile."""
    names: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith("Compiling"):
                names.append(record.getMessage()[:80])

    logger, listener = logging.getLogger("jax"), Listener()
    propagate = logger.propagate
    logger.addHandler(listener)
    logger.propagate = False
    try:
        with jax.log_compiles():
            yield names
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagate


def test_the_counter_counts():
    with compilations() as names:
        jax.jit(lambda x: x + 17)(np.arange(3))
    assert len(names) == 1


@pytest.mark.parametrize(
    ("preset", "devices", "transform"),
    [
        pytest.param("paper", 1, "pmap", marks=pytest.mark.slow),
        ("released", 4, "pmap"),
        pytest.param("paper", 4, "shard_map", marks=pytest.mark.slow),
    ],
)
def test_nothing_compiles_after_the_first_epoch_and_nothing_leaves_the_device(
    preset, devices, transform
):
    changes = {"parallel.devices": devices, "parallel.transform": transform}
    problem = load_problem(tiny_config(preset, changes), tiny_dataset())
    programs = compile_programs(problem)
    state = programs.training.lay_out(new_state(problem))

    def epoch(state):
        with jax.transfer_guard_device_to_host("disallow"):
            state, metrics = programs.training.epoch(state, STEPS)
        jax.device_get(metrics)
        programs.evaluators["validation"](programs.training.embed(state))
        return state

    with compilations() as first:
        state = epoch(state)
    assert first
    with compilations() as later:
        for _ in range(2):
            state = epoch(state)
    assert later == []
    # Nor is anything sent: the step's arguments are on the devices already.
    with jax.transfer_guard("disallow"):
        programs.training.epoch(state, STEPS)


def test_a_run_compiles_nothing_after_its_first_epoch(tmp_path, monkeypatch):
    counts, real = [], epochs.epoch_line
    config = tiny_config("paper", {"game.weight": 0.0})
    with compilations() as names:

        def count(*arguments):
            counts.append(len(names))
            return real(*arguments)

        monkeypatch.setattr(epochs, "epoch_line", count)
        fit(config, tmp_path / "run", dataset=tiny_dataset(), quiet=True)
    assert counts[0] > 0
    assert counts == [counts[0]] * 3


# More users and items than any block or batch; no other size comes near their product.
N_USERS, N_ITEMS = 331, 293


def big_problem(preset: str):
    changes = {"structure.block_users": 16, "game.block_items": 32, "structure.k_rate": 0.011}
    data = planted_dataset(n_users=N_USERS, n_items=N_ITEMS, plan=Plan(n_topics=8, width=6))
    return load_problem(tiny_config(preset, {"sampling.batch_size": 24, **changes}), data)


def arrays_within(jaxpr):
    """Shapes of all values of a jaxpr and of every jaxpr in it."""
    for variable in [*jaxpr.invars, *jaxpr.constvars]:
        yield variable.aval.shape
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield getattr(variable.aval, "shape", ())
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from arrays_within(inner)


def dense_arrays(function, *arguments) -> set[tuple[int, ...]]:
    """Shapes with both a users' and an items' axis, or as many entries as such an array."""
    shapes = set(arrays_within(jax.make_jaxpr(function)(*arguments).jaxpr))
    assert len(shapes) > 3
    return {
        shape
        for shape in shapes
        if {N_USERS, N_ITEMS} <= set(shape) or np.prod(shape, dtype=int) >= N_USERS * N_ITEMS
    }


def test_the_search_finds_a_dense_array_at_any_depth():
    def dense(users, items):
        def body(carry, _):
            return jax.lax.cond(carry > 0, lambda: (users @ items.T).sum(), lambda: carry), None

        return jax.jit(lambda: jax.lax.scan(jax.checkpoint(body), 0.0, None, 2))()

    found = dense_arrays(dense, np.ones((N_USERS, 4)), np.ones((N_ITEMS, 4)))
    assert found == {(N_USERS, N_ITEMS)}


@pytest.mark.parametrize("preset", PRESETS)
def test_no_users_by_items_array_in_training(preset):
    problem = big_problem(preset)
    assert not dense_arrays(
        lambda state, inputs: train_steps(problem.method, state, inputs, 3),
        new_state(problem),
        problem.inputs,
    )


def test_no_users_by_items_array_in_a_rebuild():
    problem = big_problem("paper")
    state = new_state(problem).method
    assert not dense_arrays(
        lambda state, inputs: rebuild(problem.method, state, inputs), state, problem.inputs
    )


def test_no_users_by_items_array_in_the_evaluation():
    data = big_problem("paper").dataset
    blocks = user_blocks(HeldOut(N_USERS, N_ITEMS, data.train, data.test), 1, 16)
    share = jax.tree.map(lambda leaf: leaf[0], blocks)
    vectors = np.ones((N_USERS, 8), np.float32), np.ones((N_ITEMS, 8), np.float32)
    assert not dense_arrays(
        lambda *vectors: block_sums(Vectors(*vectors), share, Scoring(ks=(5, 20))), *vectors
    )
