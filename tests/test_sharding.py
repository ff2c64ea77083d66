"""Rows of users and items spread over devices: the same run as on one device, in parts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import ConfigError, override
from mmssl_jax.graph.bipartite import observed_graph
from mmssl_jax.layout import is_by_row, lay_out, make_layout, make_whole
from mmssl_jax.methods import METHODS
from mmssl_jax.methods.mmssl.config import preset_config
from mmssl_jax.nodes import deal_users
from mmssl_jax.training.loop import fit
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_embedding, compile_training
from tests.problems import CHANGES, tiny_dataset

SHARED = {
    key: CHANGES[key] for key in ("data.format", "sampling.batch_size", "eval.ks", "optim.lr")
}
CROSSVIEW = {"contrast.nodes": 40, "softmax.negatives": 16, "view.taste_weight": 0.5}
CASES = {
    "lightgcn": ("lightgcn", {}),
    "crossview": ("crossview", CROSSVIEW),
    "paper": ("mmssl", {"critic.dropout": (0.31, 0.5)}),
    "released": ("mmssl", {"structure.k_rate": 0.1, "critic.hidden": (0.25, 0.125)}),
    "masked": ("mmssl", {"structure.mask_observed": True, "game.score_weight": 100.0}),
}


def config_of(case, **changes):
    name, own = CASES[case]
    base = preset_config("released") if case == "released" else METHODS[name].CONFIG()
    tiny = CHANGES if name == "mmssl" else {key: CHANGES[key] for key in SHARED}
    return override(base, {**tiny, **own, **changes})


@functools.cache
def train(case: str, devices: int):
    """Losses of each of eight steps, two epochs, and vectors and whole state after."""
    tables = "replicated" if devices == 1 else "sharded"
    config = config_of(case, **{"parallel.devices": devices, "parallel.tables": tables})
    problem = load_problem(config, tiny_dataset())
    training, losses = compile_training(problem), []
    state = training.lay_out(new_state(problem))
    for _ in range(2):
        state = training.start_epoch(state)
        for _ in range(4):
            state, metrics = training.steps(state, 1)
            losses.append(jax.device_get(metrics))
    return losses, training.embed(state), training.make_whole(state)


@pytest.mark.parametrize(
    ("case", "devices"),
    [
        ("lightgcn", 4),
        ("paper", 4),
        ("lightgcn", 2),
        *(
            pytest.param(case, devices, marks=pytest.mark.slow)
            for case, devices in (
                ("crossview", 2), ("crossview", 4), ("paper", 2), ("released", 2), ("released", 4),
                ("masked", 4),
            )
        ),
    ],
)  # fmt: skip
def test_losses_vectors_and_states_are_those_of_one_device(case, devices):
    losses, vectors, state = train(case, 1)
    of_parts, spread_vectors, spread_state = train(case, devices)
    for step, (one, many) in enumerate(zip(losses, of_parts, strict=True)):
        assert one.keys() == many.keys()
        for name in one:
            np.testing.assert_allclose(many[name], one[name], 1e-5, 1e-7, err_msg=f"{name} {step}")
    for found, expected in zip(spread_vectors, vectors, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)
    assert jax.tree.structure(spread_state) == jax.tree.structure(state)
    for found, expected in zip(jax.tree.leaves(spread_state), jax.tree.leaves(state), strict=True):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["paper", "released"])
def test_a_state_made_whole_and_spread_again_goes_on_bit_for_bit(case):
    config = config_of(case, **{"parallel.devices": 4, "structure.every": int(case != "paper")})
    problem = load_problem(config, tiny_dataset())
    training = compile_training(problem)
    state = training.start_epoch(training.lay_out(new_state(problem)))
    state, _ = training.steps(state, 3)
    again = training.lay_out(training.make_whole(state))
    results = [training.make_whole(training.steps(each, 3)[0]) for each in (state, again)]
    for one, other in zip(*map(jax.tree.leaves_with_path, results), strict=True):
        (path, found), expected = one, other[1]
        # An edge that weighs nothing may be any.
        is_id = jax.tree_util.keystr(path).endswith(("senders", "receivers"))
        if not is_id and not jnp.issubdtype(found.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(found, expected)


def test_a_whole_state_is_not_taken_for_a_spread_one():
    config = config_of("lightgcn", **{"parallel.devices": 2})
    problem = load_problem(config, tiny_dataset())
    training, state = compile_training(problem), new_state(problem)
    for call in (training.start_epoch, lambda state: training.steps(state, 1)):
        with pytest.raises(ValueError, match="lay_out"):
            call(state)


def test_devices_that_cannot_share_a_batch_can_rank():
    config = config_of("lightgcn", **{"parallel.devices": 3, "sampling.batch_size": 50})
    problem = load_problem(config, tiny_dataset())
    with pytest.raises(ConfigError, match="cannot be shared by 3 devices"):
        compile_training(problem)
    vectors = compile_embedding(problem)(new_state(problem))
    one = load_problem(override(config, {"parallel.devices": 1}), tiny_dataset())
    expected = compile_embedding(one)(new_state(one))
    np.testing.assert_allclose(vectors.users, expected.users, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(vectors.items, expected.items, rtol=1e-5, atol=1e-7)


def test_devices_hold_their_share_and_no_more():
    config = config_of("paper", **{"parallel.devices": 4, "parallel.tables": "sharded"})
    problem = load_problem(config, tiny_dataset())
    training = compile_training(problem)
    state = training.lay_out(new_state(problem)).method
    dataset, nodes = problem.dataset, problem.layout.nodes
    tall = {
        "user_embedding": nodes.n_users,
        "item_embedding": nodes.n_items,
    }
    for name, n_rows in tall.items():
        for tree in (state.generator, state.generator_opt[0].mu, state.generator_opt[0].nu):
            shards = tree[name].addressable_shards
            assert [shard.data.shape[0] for shard in shards] == [n_rows] * 4
    kernel = state.critic["first_kernel"].addressable_shards
    assert [shard.data.shape[0] for shard in kernel] == [nodes.n_items] * 4
    assert 4 * nodes.n_users < dataset.n_users + 4
    assert 4 * nodes.n_items < dataset.n_items + 8
    places = dataclasses.replace(problem.method, nodes=nodes).graph_edges()
    for graph in state.learned.values():
        assert [len(s.data) for s in graph.to_users.edges.addressable_shards] == [places] * 4
    assert 4 * places < 2 * len(dataset.train)


def test_users_are_dealt_by_their_interactions():
    rng = np.random.default_rng(0)
    degree = np.minimum(rng.zipf(1.5, 1003), 400)
    for n_devices in (1, 2, 8):
        rows = deal_users(degree, n_devices)
        n_rows = -(-1003 // n_devices)
        assert len(np.unique(rows)) == 1003
        assert rows.max() < n_devices * n_rows
        load = np.bincount(rows // n_rows, degree, n_devices)
        # The last to be dealt have one interaction each: no device is ahead by more than a user.
        assert load.max() - load.min() <= degree.max()
        assert load.max() <= 1.05 * load.mean()
    np.testing.assert_array_equal(np.sort(deal_users(degree, 1)), np.arange(1003))


@pytest.mark.parametrize("n_devices", [1, 3, 4])
def test_a_tree_is_made_whole_as_it_was(n_devices):
    dataset = tiny_dataset()
    layout = make_layout(dataset, n_devices)
    graph = observed_graph(dataset.train, dataset.n_users, dataset.n_items, "receiver")
    rng = np.random.default_rng(0)
    tree = {
        "users": jnp.asarray(rng.normal(size=(dataset.n_users, 3))),
        "moments": {"items": jnp.asarray(rng.normal(size=dataset.n_items))},
        "count": jnp.int32(4),
        "graph": graph,
    }
    rows = {"users": "users", "*/items": "items"}
    spread = lay_out(tree, layout, rows)
    assert len(spread["users"]) == n_devices * layout.nodes.n_users
    assert len(spread["graph"].to_items.edges) == n_devices * layout.nodes.n_edges
    for found, expected in zip(
        jax.tree.leaves(make_whole(spread, tree, layout, rows)), jax.tree.leaves(tree), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("case", ["crossview", "paper"])
def test_what_a_modality_is_called_spreads_nothing(case):
    names = ("items", "features")
    dataset = tiny_dataset()
    features = dict(zip(names, dataset.features.values(), strict=True))
    dataset = dataclasses.replace(dataset, features=features)
    problem = load_problem(config_of(case, **{"parallel.devices": 2}), dataset)
    rows = problem.method.ROWS
    spread = lay_out(problem.inputs, problem.layout, rows)
    assert [len(x) for x in spread.features.values()] == [2 * problem.layout.nodes.n_items] * 2
    if case == "crossview":
        assert [x.shape for x in spread.means.values()] == [(6,), (6,)]
        return
    where = is_by_row(jax.eval_shape(problem.method.init, jax.random.key(0), problem.inputs), rows)
    assert jax.tree.leaves(where.generator["encoder"]) == [False] * 4
    assert where.generator["user_embedding"]


def test_only_methods_that_can_are_sharded():
    config = override(METHODS["bm3"].CONFIG(), {"parallel.tables": "sharded", **BATCH})
    with pytest.raises(ConfigError, match=r"bm3 cannot; .*lightgcn.* can"):
        load_problem(config, tiny_dataset())
    config = override(config, {"parallel.tables": "auto", "parallel.devices": 4})
    assert load_problem(config, tiny_dataset()).layout is None
    assert load_problem(config_of("paper"), tiny_dataset()).layout is None  # one device
    config = config_of("paper", **{"parallel.devices": 2})
    assert load_problem(config, tiny_dataset()).layout is not None


BATCH = {"sampling.batch_size": 48, "eval.ks": (5, 20)}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lightgcn", "paper"])
def test_a_run_goes_on_with_other_devices(case, tmp_path):
    """Begun on one device, continued on four with spread rows, ended on two."""
    whole = fit(
        config_of(case, **{"train.epochs": 3}),
        tmp_path / "whole",
        dataset=tiny_dataset(),
        quiet=True,
    )
    run, found = tmp_path / "run", None
    for epochs, devices in ((1, 1), (2, 4), (3, 2)):
        changes = {"train.epochs": epochs, "parallel.devices": devices}
        config, goes_on = config_of(case, **changes), epochs > 1
        found = fit(config, run, dataset=tiny_dataset(), resume=goes_on, quiet=True)
    assert found["best_epoch"] == whole["best_epoch"]
    for split in ("validation", "test"):
        for name, value in whole[split].items():
            assert found[split][name] == pytest.approx(value, abs=1e-6), name
