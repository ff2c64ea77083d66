"""The benchmarks run at tiny sizes, and what they count is right; their times mean nothing here."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    costs,
    devices,
    evaluate,
    measure,
    pieces,
    propagate,
    sampling,
    scale,
    scopes,
    train_step,
)
from benchmarks.catalogue import TRAIN_PER_USER, catalogue
from mmssl_jax.config import ConfigError, override
from mmssl_jax.methods import METHODS
from mmssl_jax.methods.lightgcn import LightGCNConfig
from mmssl_jax.methods.mmssl import method as mmssl
from mmssl_jax.methods.mmssl.config import MMSSLConfig
from mmssl_jax.methods.mmssl.draws import draw
from mmssl_jax.parallel import AXIS, local_devices, spread
from tests import problems
from tests.problems import assert_close, step_problem

# Compiles in seconds.
QUICK = {"model.dropout": 0.0, "critic.dropout": (0.0, 0.0), "model.gnn_layers": 1}
RATE = 1e11  # FLOP per second, in place of a measured one
LIGHTGCN = {
    "lightgcn.dim": 8,
    "sampling.batch_size": 48,
    **{
        key: value
        for key, value in problems.CHANGES.items()
        if key.split(".")[0] in ("data", "eval", "parallel")
    },
}


def quick_config(**changes):
    return problems.tiny_config("paper", {**QUICK, **changes})


def quick_lightgcn():
    return override(LightGCNConfig(), LIGHTGCN)


def check_figures(result, *positive):
    """The promised keys are there, and are positive and finite."""
    assert all(math.isfinite(result[key]) and result[key] > 0 for key in positive), result
    json.dumps(result)


def check_shares(shares, *expected):
    assert sum(shares.values()) == pytest.approx(1)
    assert all(0 <= share <= 1 for share in shares.values())
    for scope in expected:
        assert any(name.startswith(scope) for name in shares)
    assert shares.get(scopes.OTHER, 0.0) < 0.1


@pytest.mark.slow
def test_train_step():
    result = train_step.measure_step(
        quick_config(), problems.tiny_dataset(), 1, None, steps=2, rate=RATE
    )
    check_figures(
        result,
        *("step_ms", "epoch_start_ms", "first_call_ms", "roofline", "matmul_gflop", "xla_gflop"),
        *("peak_rss_mib", "best_matmul_gflop_per_s", "dense_step_ms", "dense_matmul_gflop"),
    )
    assert result["dense_matmul_gflop"] > result["matmul_gflop"]
    check_shares(result["time_share"], "sampling", "critic_step", "attention (gradient)")


def test_train_step_of_a_method_without_a_plain_formulation():
    result = train_step.measure_step(
        quick_lightgcn(), problems.tiny_dataset(), 1, None, steps=2, rate=RATE
    )
    check_figures(result, "step_ms", "epoch_start_ms", "first_call_ms", "xla_gflop")
    assert "dense_step_ms" not in result
    assert result["time_share"] == {scopes.OTHER: pytest.approx(1)}


@pytest.mark.parametrize("config", [quick_config(), quick_lightgcn()], ids=lambda c: c.method)
def test_evaluation(config):
    dataset = problems.tiny_dataset()
    result = evaluate.measure_evaluation(config, dataset, 1, None, rate=RATE)
    check_figures(result, "eval_ms", "embed_ms", "first_call_ms", "peak_rss_mib", "roofline")
    assert result["users"] == len(np.unique(dataset.test[:, 0]))
    check_shares(result["time_share"], "top_k", "scores")


def test_propagation(tmp_path):
    dataset = problems.tiny_dataset()
    result = propagate.measure_propagation(quick_config(), dataset, 1, str(tmp_path), width=8)
    for key in ("forward", "gradient"):
        check_figures(result, f"{key}_ms", f"{key}_edges_per_s", f"{key}_gb_per_s")
        assert list((tmp_path / key).rglob("*.xplane.pb"))
    assert (result["edges"], result["width"]) == (len(dataset.train), 8)


def test_sampling():
    dataset, config = problems.tiny_dataset(), quick_config()
    result = sampling.measure_sampling(config, dataset, 1, None, batches=3)
    for by in ("user", "interaction"):
        check_figures(
            result, f"{by}_draw_ms", f"{by}_triples_per_s", f"{by}_triples_with_edges_per_s"
        )
        check_shares(result[f"{by}_time_share"], "sampling", "batch_edges")
        # A batch has at least one interaction per triple, and no more than there is place for.
        edges = result[f"{by}_edges_per_batch"]
        assert config.sampling.batch_size <= edges <= result[f"{by}_edge_places"]


@pytest.mark.slow
def test_scale_in_this_process():
    result = scale.measure_size(
        quick_config(), 40, repeats=1, steps=2, sampled_users=20, block_entries=640, rate=RATE
    )
    check_figures(
        result,
        *("step_ms", "epoch_start_ms_per_user", "epoch_start_ms_per_step"),
        *("eval_ms_per_1000_users", "roofline"),
        *("peak_rss_mib", "stepped_peak_rss_mib", "fingerprint_s"),
    )
    assert (result["users"], result["train"]) == (60, 600)
    assert result["structure.block_users"] == result["eval.block_users"] == 16


def test_scale_of_a_method_without_a_start_of_epochs(tmp_path):
    result = scale.measure_size(
        quick_lightgcn(), 40, repeats=1, profile=str(tmp_path), steps=2, sampled_users=20, rate=RATE
    )
    check_figures(result, "step_ms", "eval_ms_per_1000_users", "stepped_peak_rss_mib")
    assert result["epoch_start_ms_per_user"] >= 0
    assert (result["users"], result["train"]) == (60, 600)
    assert "time_share" not in result  # there are no scopes to tell apart


def test_scale_skips_what_is_in_its_file(tmp_path, monkeypatch, capsys):
    measured = []

    def fake(arguments, n_items, limit_s):
        measured.append((n_items, limit_s))
        return {"items": n_items, "step_ms": 3.0 * n_items**0.5, "stepped_peak_rss_mib": n_items}

    monkeypatch.setattr(scale, "measure_in_process", fake)
    out = ["--json", "--out", str(tmp_path / "results.jsonl"), "--limit_s", "7"]
    scale.main([*out, "--items", "100,400"])
    capsys.readouterr()
    scale.main([*out, "--items", "100,400,1600"])
    shown = json.loads(capsys.readouterr().out)

    assert measured == [(100, 7.0), (400, 7.0), (1600, 7.0)]
    assert shown["slope_step_ms"] == pytest.approx(0.5)
    assert shown["slope_stepped_peak_rss_mib"] == pytest.approx(1)
    assert shown["slope_epoch_start_ms_per_user"] is None
    assert set(shown["sizes"]) == {"100", "400", "1600"}
    with pytest.raises(SystemExit) as stopped:
        scale.main([*out, "--items", "100", "--steps", "2"])
    assert stopped.value.code == 2
    assert "name another file" in capsys.readouterr().err


def test_scale_records_a_size_that_fails():
    assert "exit status" in scale.measure_in_process(["--no_such_flag"], 100, 300.0)["error"]
    assert "not done after" in scale.measure_in_process([], 100, 0.01)["error"]


def test_scale_refuses_a_file_of_other_settings(tmp_path):
    out = tmp_path / "results.jsonl"
    out.write_text(json.dumps({"items": 100, "settings": {"steps": 2}}) + "\n")
    assert len(scale.read_records(out, {"steps": 2})) == 1
    with pytest.raises(ConfigError, match="name another file"):
        scale.read_records(out, {"steps": 3})


def test_one_json_object(capsys):
    flags = problems.flags({**problems.CHANGES, "sampling.batch_size": 6})
    sampling.main([*flags, "--json", "--repeats", "1", "--batches", "2"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["batch_size"] == 6
    assert shown["hardware"]["cores"] >= 1
    assert shown["user_triples_per_s"] > 0


def test_a_dataset_that_is_missing_is_a_message(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(["--data.path", str(tmp_path / "nowhere")])
    assert stopped.value.code == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_catalogue_is_a_dataset():
    dataset = catalogue(60, width=3)
    dataset.check()
    assert dataset.n_users == 90
    assert np.all(np.bincount(dataset.train[:, 0]) == TRAIN_PER_USER)
    assert np.all(np.bincount(dataset.test[:, 0]) == 1)
    by_popularity = np.sort(np.bincount(dataset.train[:, 1], minlength=60))
    assert by_popularity[-15:].sum() > 2 * by_popularity[:15].sum()


# Matrix products ----------------------------------------------------------------------------------


def test_flops_of_products():
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    product = 2 * 3 * 5 * 7
    assert measure.matmul_flops(jnp.matmul, a, b) == product
    assert measure.matmul_flops(jax.jit(jnp.matmul), a, b) == product

    def scanned(a, b):
        return jax.lax.scan(lambda total, _: (total + jnp.sum(a @ b), None), 0.0, length=4)[0]

    assert measure.matmul_flops(scanned, a, b) == 4 * product

    def branch(a, b):
        cheap, dear = (lambda: jnp.sum(a[:1] @ b)), (lambda: jnp.sum(a @ b))
        return jax.lax.cond(a[0, 0] > 0, cheap, dear)

    assert measure.matmul_flops(branch, a, b) == product
    # Two gradients of a product are two more products.
    both = jax.grad(lambda a, b: jnp.sum((a @ b) ** 2), argnums=(0, 1))
    assert measure.matmul_flops(both, a, b) == 3 * product
    batched = jnp.ones((6, 3, 5))
    assert measure.matmul_flops(jnp.matmul, batched, jnp.ones((6, 5, 7))) == 6 * product


def test_the_matmul_rate_is_positive():
    assert measure.matmul_rate(sizes=((8, 8, 8),), repeats=1) > 0


def step_flops(config):
    problem = step_problem(config)

    def one_step(state):
        return problem.setup.step(state, jax.random.key(0), problem.inputs)

    widths = [raw.shape[1] for raw in problem.inputs.features.values()]
    shape = costs.shape_of(problem.setup, sum(widths), len(widths))
    return measure.matmul_flops(one_step, problem.state), shape


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("paper", {}),
        ("paper", {"structure__mask_observed": True, "critic__hidden": (300, 20)}),
        ("paper", {"game__temperature": 0.6, "game__gumbel_scale": 0.4, "game__block_items": 64}),
        ("paper", {"game__temperature": 0.6, "game__gumbel_scale": 0.4}),
        ("paper", {"game__real_rows": "observed", "model__attention_values": "queries"}),
        ("paper", {"model__dim": 32, "sampling__batch_size": 8, "loss__contrastive": 0.0}),
        ("released", {"train__shared_forward": True, "structure__k_rate": 0.0}),
    ],
)
def test_the_formulas_are_the_steps_matrix_products(preset, changes):
    config = problems.step_config(preset, **changes)
    counted, shape = step_flops(config)
    assert sum(costs.step_matmul_flops(config, shape).values()) == pytest.approx(counted, rel=0.1)


# Bytes --------------------------------------------------------------------------------------------


def test_numbers_of_parameters():
    problem = step_problem(problems.step_config())
    _, shape = step_flops(problems.step_config())
    for formula, tree in (
        (costs.generator_parameters, problem.state.generator),
        (costs.critic_parameters, problem.state.critic),
    ):
        assert formula(shape) == sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_bytes_of_the_state():
    problem = step_problem(problems.step_config())
    _, shape = step_flops(problems.step_config())
    held = problem.state, problem.inputs
    # Keys, counts and the list of users are small beside the rest, but not in so tiny a problem.
    n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(held))
    assert sum(costs.state_bytes(shape).values()) == pytest.approx(n_bytes, rel=0.1)


def collective_bytes(function, *arguments):
    """{collective: bytes of the whole arrays it acts on} of a traced function."""
    found = {}

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            name = equation.primitive.name
            if name in ("psum", "psum_invariant", "all_gather", "reduce_scatter"):
                name = "psum" if name == "psum_invariant" else name
                whole = equation.invars if name == "reduce_scatter" else equation.outvars
                sizes = [v.aval.size * v.aval.dtype.itemsize for v in whole]
                found[name] = found.get(name, 0) + sum(sizes)
            for inner in measure.inner_jaxprs(equation.params):
                walk(inner)

    walk(jax.make_jaxpr(function)(*arguments).jaxpr)
    return found


def step_communication(config):
    """{collective: bytes} of a step on four devices."""
    problem = step_problem(config)
    devices = local_devices(4)
    setup = dataclasses.replace(problem.setup, axis=AXIS)

    def one_step(state, inputs):
        return setup.step(state, jax.random.key(0), inputs)

    return collective_bytes(
        spread(one_step, devices, "shard_map", (False, False)), problem.state, problem.inputs
    )


def test_what_a_step_communicates():
    config = problems.step_config(sampling__batch_size=8)
    found = step_communication(config)
    _, shape = step_flops(config)
    expected = costs.collective_bytes(shape._replace(N=4))
    assert found["psum"] == pytest.approx(expected["gradients, summed"], rel=0.02)
    assert found["all_gather"] == expected["contrastive, gathered"]
    assert found["reduce_scatter"] == expected["contrastive, summed and scattered"]


def test_what_batch_norm_communicates():
    by_norm = {
        norm: step_communication(problems.step_config(sampling__batch_size=8, critic__norm=norm))
        for norm in ("layer", "batch")
    }
    _, shape = step_flops(problems.step_config())
    # docs/scaling.md: four calls, their gradients, and that of the penalty.
    expected = 80 * (shape.H1 + shape.H2)
    assert by_norm["batch"]["psum"] - by_norm["layer"]["psum"] == expected


def test_costs_prints_one_json_object(capsys):
    costs.main(["--json", "--U", "1e3", "--I", "500", "--E", "1e4", "--L", "1e4"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["rebuild_matmul_flops"] == 2 * 2 * 1000 * 500 * 64


def test_costs_says_what_its_letters_mean(capsys):
    with pytest.raises(SystemExit):
        costs.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert set(costs.MEANINGS) == set(costs.Shape._fields)
    assert all(meaning in shown for meaning in costs.MEANINGS.values())


@pytest.mark.parametrize(
    ("flag", "says"),
    [("--repeats=0", "repeats"), ("--repaets=3", "the nearest is 'repeats'")],
)
def test_a_wrong_flag_is_refused_before_anything_is_measured(flag, says, capsys):
    with pytest.raises(SystemExit) as leaving:
        evaluate.main(["--data.format=synthetic", flag])
    assert leaving.value.code == 2
    assert says in capsys.readouterr().err


# The dense formulation ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        pytest.param("paper", {}, marks=pytest.mark.slow),
        pytest.param("released", {"structure__k_rate": 0.1}, marks=pytest.mark.slow),
        pytest.param(
            "paper",
            {"game__temperature": 0.6, "game__gumbel_scale": 0.4, "game__weight": 0.5},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "paper",
            {"game__real_rows": "observed", "structure__mask_observed": True},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_dense_step_is_the_structured_one(preset, changes, monkeypatch):
    config = problems.step_config(preset, model__dropout=0.0, critic__dropout=(0.0, 0.0), **changes)
    # In float64, so that Adam does not make whole steps of rounding noise where a gradient is zero.
    with problems.precision("float64") as dtype:
        setup, _, inputs, state = step_problem(config, dtype=dtype)
        uniform = jax.random.uniform(jax.random.key(3), (6, setup.sizes.n_items))

        def with_noise(*arguments):
            draws = draw(*arguments)
            return draws._replace(game=draws.game._replace(noise=uniform))

        # A key gives the two other noise.
        monkeypatch.setattr(mmssl, "draw", with_noise)

        @jax.jit
        def both(state):
            key = jax.random.key(0)
            structured, _ = setup.step(state, key, inputs)
            return structured, setup.reference_step(state, key, inputs)

        structured, dense = both(state)
        for player in ("generator", "critic"):
            expected = getattr(structured, player)
            pair = getattr(dense, player), expected
            if player == "critic" and config.critic.norm == "batch":
                pair = tuple(map(without_undone_biases, pair))
            assert_close(*pair, 1e-5)
            moved = jax.tree.map(lambda a, b: jnp.any(a != b), expected, getattr(state, player))
            assert any(bool(leaf) for leaf in jax.tree.leaves(moved))
        assert int(dense.step) == int(structured.step) == 1


def without_undone_biases(critic):
    """The critic's parameters but for the biases that a batch norm takes out again: their gradient
    is zero, and what Adam makes of its rounding noise means nothing."""
    dense_1 = {"kernel": critic["dense_1"]["kernel"]}
    return {k: v for k, v in critic.items() if k != "first_bias"} | {"dense_1": dense_1}


# Time shares --------------------------------------------------------------------------------------

SCOPES = ("outer", "inner")


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("jit(f)/outer/inner/mul", "inner"),
        ("jit(f)/outer/mul", "outer"),
        ("jit(f)/mul", ""),
        ("jit(f)/outer/jvp(inner)/mul", "inner"),
        ("jit(f)/outer/transpose(jvp(inner))/mul", "inner (gradient)"),
        ("jit(f)/transpose(jvp(Module))/inner/mul", "inner (gradient)"),
        ("jit(f)/outer/transpose(jvp(Critic))/mul", "outer (gradient)"),
        ("jit(f)/outer/jvp(inner)/transpose(jvp(Critic))/mul", "inner"),
        ("jit(f)/outer/transpose(jvp(inner))/transpose(jvp(Critic))/mul", "inner (gradient)"),
    ],
)
def test_the_scope_of_a_path(path, scope):
    assert scopes.scope_of_path(path, SCOPES) == scope


PROGRAM = """
%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %m.1 = f32[8]{0} multiply(%p, %p), metadata={op_name="jit(f)/inner/mul"}
}

%body (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %arg = (s32[], f32[8]{0}) parameter(0)
  %in_loop = f32[8]{0} copy(%arg)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %before = f32[8]{0} copy(%x)
  %loop = (s32[], f32[8]{0}) while(%t), condition=%c, body=%body, metadata={op_name="f/outer/w"}
  %while_like_fusion = f32[8]{0} fusion(%before), kind=kLoop, calls=%fused
  ROOT %after = f32[8]{0} copy(%while_like_fusion)
  %alone = f32[8]{0} copy(%nothing)
}
"""


def test_the_scopes_of_a_program():
    found = scopes.scopes_of_instructions(PROGRAM, SCOPES)
    assert found["while_like_fusion"] == found["before"] == found["after"] == "inner"
    assert found["in_loop"] == "outer"
    assert found["alone"] == scopes.OTHER
    assert "loop" not in found  # its time is that of its body


# Pieces -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_piece_is_measured_against_its_stock_form():
    config = problems.tiny_config(changes={"critic.dropout": (0.0, 0.0), "model.dropout": 0.0})
    figures = pieces.measure_pieces(config, problems.tiny_dataset(), 1, None, steps=1)
    assert list(figures) == [piece.name for piece in pieces.PIECES]
    assert all(found["lines"] > 10 and found["step_ms"] > 0 for found in figures.values())


@pytest.mark.slow
def test_stock_forms_compute_the_same():
    config = problems.tiny_config(changes={"critic.dropout": (0.0, 0.0), "model.dropout": 0.0})
    method = METHODS[config.method].build(config, problems.tiny_dataset())
    inputs = method.inputs(problems.tiny_dataset())
    losses = {}
    start = jax.jit(lambda inputs: pieces.start(method, inputs))
    for piece in (None, *pieces.PIECES):
        state = start(inputs)
        program = pieces.compiled_step(method, state, inputs, 2, piece)
        _, losses[piece and piece.name] = program(state, inputs)
    whole = losses.pop(None)
    for name, found in losses.items():
        for key, value in found.items():
            assert float(value) == pytest.approx(float(whole[key]), rel=1e-4, abs=1e-5), name


@pytest.mark.slow
def test_a_device_of_four_has_a_quarter_of_what_is_spread():
    """By the compiled step, and by the formulas of docs/scaling.md."""
    changes = {"critic.hidden": (64, 16), "model.dim": 16, "sampling.batch_size": 32}
    config = override(MMSSLConfig(), changes)
    found = devices.measure_devices(config, None, 1, None, (1, 4), items=3000)
    one, four = found["1"], found["4"]
    held = four["held"]
    assert held["spread_bytes"] == pytest.approx(one["held"]["spread_bytes"] / 4, rel=0.01)
    assert held["whole_bytes"] == one["held"]["whole_bytes"]
    step = four["step"]
    assert step["argument_bytes"] <= held["spread_bytes"] + held["whole_bytes"]
    assert step["matmul_flop"] <= 1.01 * one["step"]["matmul_flop"] / 4
    assert four["epoch_start"]["matmul_flop"] <= 1.05 * one["epoch_start"]["matmul_flop"] / 4

    rows = 10 * 4500
    shape = costs.Shape(4500, 3000, rows, rows, B=32, D=16, H1=64, H2=16, F=256, N=4)
    expected = costs.spread_collective_bytes(shape)
    sent = step["collective_bytes"]
    assert sent["reduce-scatter"] == pytest.approx(expected["summed and scattered"], rel=0.1)
    left_out = (2 * shape.M + 1) * 4 * shape.I * shape.D
    assert sent["all-gather"] == pytest.approx(expected["gathered"] - left_out, rel=0.1)
    of_state = costs.spread_state_bytes(shape)
    total = held["spread_bytes"] + held["whole_bytes"]
    assert sum(of_state.values()) == pytest.approx(total, rel=0.05)
