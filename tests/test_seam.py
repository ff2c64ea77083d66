"""The harness and the methods meet at mmssl_jax/method.py alone, and MMSSL's numbers stay."""

import ast
import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax.config import Config, override
from mmssl_jax.method import ItemWeights, Method, Vectors
from mmssl_jax.methods import DEFAULT, METHODS
from mmssl_jax.recommend import Recommender
from mmssl_jax.training.loop import fit
from mmssl_jax.training.problem import load_problem, new_state
from mmssl_jax.training.programs import compile_training
from mmssl_jax.training.restore import evaluate_run
from tests.problems import partial_dataset, precision, tiny_config, tiny_dataset, write_folder

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mmssl_jax"

# The harness knows no method by name ------------------------------------------------------------

STAGES = (
    "training", "ranking", "recommend", "report", "study", "tune", "compare", "records", "cli",
    "graph", "losses", "data",
)  # fmt: skip
FILES = (
    "checkpoint", "parallel", "run_config", "config", "method", "sampling", "optimizers",
    "precision", "norms", "blocks", "compilation", "digest", "files", "messages", "settings_parser",
    "settings_yaml", "layout", "nodes", "hosts",
    "orbax_threads",
)  # fmt: skip
BENCHMARKS = (
    "measure", "scopes", "train_step", "evaluate", "sampling", "propagate", "scale", "catalogue",
)  # fmt: skip
HARNESS = [
    *(path for stage in STAGES for path in sorted((PACKAGE / stage).rglob("*.py"))),
    *(PACKAGE / f"{name}.py" for name in FILES),
    *(ROOT / "benchmarks" / f"{name}.py" for name in BENCHMARKS),
]
# What only a method has.
OF_METHODS = ("critic", "generator", "adversarial", "attention")
# The package's own name, and a class of NumPy's.
NOT_MEANT = ("mmssl_jax", "np.random.Generator")


def imported(source: str) -> set[str]:
    """Full names of what a file imports of the methods."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if f"{name}.".startswith("mmssl_jax.methods.")}


def words_of_methods(source: str) -> list[str]:
    """`line: text` of each line that names a method, or speaks of a part of one."""
    titles = {kind.TITLE for kind in METHODS.values()}
    words = "|".join(re.escape(word.lower()) for word in {*METHODS, *titles, *OF_METHODS})
    found = []
    for number, line in enumerate(source.splitlines(), 1):
        text = functools.reduce(lambda text, name: text.replace(name, ""), NOT_MEANT, line)
        if re.search(rf"(?<![a-z])({words})s?(?![a-z])", text.lower()):
            found.append(f"{number}: {line.strip()}")
    return found


def test_the_harness_is_all_but_the_methods_and_what_prepares_data():
    elsewhere = {"methods", "prepare", "__init__.py"}
    parts = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__pycache__"} == elsewhere | {*STAGES} | {f"{name}.py" for name in FILES}
    assert all(path.is_file() for path in HARNESS)


@pytest.mark.parametrize("path", HARNESS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_harness_knows_no_method(path):
    source = path.read_text()
    assert imported(source) <= {"mmssl_jax.methods.METHODS", "mmssl_jax.methods.DEFAULT"}
    assert words_of_methods(source) == []


def test_a_method_named_in_the_harness_would_be_found():
    for source in (
        "from mmssl_jax.methods.lightgcn import LightGCN",
        "import mmssl_jax.methods.mmssl",
        "from mmssl_jax.methods import mmssl",
        "import mmssl_jax.methods as methods",
    ):
        allowed = {"mmssl_jax.methods.METHODS", "mmssl_jax.methods.DEFAULT"}
        assert not imported(source) <= allowed
    for source in ("# as LightGCN does", 'key = "optim.critic_lr"', "class Generator:", "Critics"):
        assert words_of_methods(source) == [f"1: {source}"]
    for source in ("from mmssl_jax.data import x", "rng: np.random.Generator", "generated = 1"):
        assert words_of_methods(source) == []


# Functions take few things ----------------------------------------------------------------------

MOST_PARAMETERS = 6


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> list[str]:
    """Names of a function's parameters, without self and cls."""
    of = function.args
    several = [each for each in (of.vararg, of.kwarg) if each]
    names = [each.arg for each in (*of.posonlyargs, *of.args, *of.kwonlyargs, *several)]
    return [name for name in names if name not in ("self", "cls")]


def too_many_parameters(source: str) -> list[str]:
    """`line: name` of each function, nested ones too, with more parameters than allowed."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    return [
        f"{node.lineno}: {getattr(node, 'name', 'lambda')}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, kinds) and len(parameters(node)) > MOST_PARAMETERS
    ]


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_function_has_more_than_six_parameters(path):
    assert too_many_parameters(path.read_text()) == []


def test_a_seventh_parameter_would_be_found():
    assert too_many_parameters("def f(self, a, b, c, d, e, f): ...") == []
    assert too_many_parameters("def f(a, b, c, d, e, f, *, g): ...") == ["1: f"]
    assert too_many_parameters("def f(a, /, b, c, d, e, *f, **g): ...") == ["1: f"]
    assert too_many_parameters("def f():\n    lambda a, b, c, d, e, f, g: 0") == ["2: lambda"]


# A method is what JAX compiles by ---------------------------------------------------------------


def built(name: str, **changes):
    config = METHODS[name].CONFIG()
    config = override(config, {"data.format": "synthetic", "sampling.batch_size": 8, **changes})
    return METHODS[name].build(config, tiny_dataset())


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "mmssl" else n for n in METHODS]
)
def test_equal_methods_share_a_compilation(name):
    first, second = built(name), built(name)
    assert first is not second
    assert first == second
    assert hash(first) == hash(second)
    assert first != built(name, **{"optim.lr": 0.5})
    assert first != dataclasses.replace(first, axis="devices")
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def step(method, state, key, inputs):
        traced.append(method)
        return method.step(state, key, inputs)

    inputs, key = first.inputs(tiny_dataset()), jax.random.key(0)
    state = first.init(key, inputs)
    for method in (first, second):
        step(method, state, key, inputs)
    assert traced == [first]
    assert step._cache_size() == 1


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_frozen_and_named_as_its_settings_say(name):
    method = built(name)
    assert METHODS[name].CONFIG().method == name
    assert DEFAULT in METHODS
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.axis = "devices"


# A method of ten lines --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PopularityConfig(Config):
    """Its settings: those that every method has."""

    method: str = "popularity"


@dataclasses.dataclass(frozen=True)
class Popularity(Method):
    """Ranks by the number of training interactions, which a step does not change."""

    TITLE: ClassVar = "Popularity"
    CONFIG: ClassVar = PopularityConfig

    config: PopularityConfig
    axis: str | None = None

    @classmethod
    def build(cls, config, dataset, n_devices=1):
        return cls(config)

    def inputs(self, dataset):
        counts = np.bincount(dataset.train[:, 1], minlength=dataset.n_items)
        return jnp.asarray(counts, jnp.float32), jnp.ones((dataset.n_users, 1))

    def init(self, key, inputs):
        return {"counts": jnp.zeros_like(inputs[0])}

    def step(self, state, key, inputs):
        return {"counts": inputs[0]}, {}

    def embed(self, state, inputs):
        return Vectors(inputs[1], state["counts"][:, None])


class PopularityOfNeighbours(Popularity):
    """The same ranking, but that each item of a user's gives all items their popularity."""

    def embed(self, state, inputs):
        n_items = len(state["counts"])
        every = jnp.broadcast_to(jnp.arange(n_items), (n_items, n_items))
        return ItemWeights(every, jnp.broadcast_to(state["counts"], (n_items, n_items)))


@pytest.fixture(params=[Popularity, PopularityOfNeighbours], scope="module")
def popularity(request, tmp_path_factory):
    """The run of a method that the package does not know, its result, and its dataset."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "popularity", request.param)
        place, dataset = tmp_path_factory.mktemp("popularity"), tiny_dataset()
        changes = {
            "data.path": str(write_folder(dataset, place / "tiny")),
            "eval.ks": (5, 20),
            "sampling.batch_size": 48,
            "train.epochs": 2,
            "parallel.devices": 1,
        }
        result = fit(override(PopularityConfig(), changes), place / "run", quiet=True)
        yield place / "run", result, dataset


def test_a_new_method_is_trained_and_evaluated(popularity):
    run, result, _ = popularity
    assert result["best_epoch"] == 0  # the next is as good, and no better
    # Users without a training item have no neighbours, and rank as they come.
    worst = {"Popularity": 1e-6, "PopularityOfNeighbours": 0.05}[METHODS["popularity"].__name__]
    expected = result["baselines"]["popularity"]
    assert result["test"] == pytest.approx(expected, abs=worst)
    assert evaluate_run(str(run), devices=1) == pytest.approx(result["test"])
    fit(Recommender.from_run(run).config, run, resume=True, quiet=True)  # it is over


def test_a_new_method_recommends(popularity, tmp_path):
    run, _, dataset = popularity
    made = Recommender.from_run(run, devices=1)
    counts = np.bincount(dataset.train[:, 1], minlength=dataset.n_items)
    users = np.unique(dataset.train[:, 0])
    lists, _ = made.recommend(users, k=5)
    for user, items in zip(users, lists, strict=True):
        own = dataset.train[dataset.train[:, 0] == user, 1]
        unseen = np.setdiff1d(np.arange(dataset.n_items), own)
        np.testing.assert_array_equal(counts[items], np.sort(counts[unseen])[::-1][:5])
    made.save(tmp_path / "saved")
    np.testing.assert_array_equal(
        Recommender.load(tmp_path / "saved").recommend(users, 5)[0], lists
    )


def test_a_new_method_is_reported(popularity):
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    from mmssl_jax.report.page import render
    from mmssl_jax.report.run import load_runs

    run, result, _ = popularity
    page = render(load_runs([run]))
    assert "Sample recommendations" in page
    assert f"{result['test']['recall@20']:.4f}" in page


# What a reader reads ----------------------------------------------------------------------------


def test_the_core_is_read_in_less_than_a_thousand_lines():
    _, _, after = (ROOT / "README.md").read_text().partition("\n## Reading the code\n")
    section = after.partition("\n## ")[0]
    files = re.findall(r"^\d+\. `([^`]+)`", section, re.M)
    assert files[:1] == ["mmssl_jax/methods/mmssl/reference.py"]
    assert all((ROOT / file).is_file() for file in files)
    assert sum(len((ROOT / file).read_text().splitlines()) for file in dict.fromkeys(files)) < 1000


# MMSSL's numbers stay ---------------------------------------------------------------------------

# Means of each of the first three steps of a run, with the datasets and settings of
# tests/problems.py. First recorded at commit f76c249, before the methods had a contract, and again
# when dropout and dense noise became keyed by rows and items: with the draws of before in their
# place, all figures were those of the first record to 2e-15.
#
#     problem = load_problem(tiny_config(preset, {"train.seed": 7}), dataset)
#     state, run = new_state(problem), compile_training(problem).steps
#     for _ in range(3):
#         state, metrics = run(state, 1)
#
# JAX_ENABLE_X64 was 1: in float32 the gradient penalty differs by 3e-6 between two sets of compiler
# options, and so may it between two processors; in float64 no figure differs by more than 1e-7.
RECORDED = json.loads((ROOT / "tests" / "parity" / "three_steps.json").read_text())


@pytest.mark.parametrize(
    ("preset", "data"),
    [
        ("paper", "all"),
        pytest.param("paper", "partial", marks=pytest.mark.slow),
        pytest.param("released", "all", marks=pytest.mark.slow),
        pytest.param("released", "partial", marks=pytest.mark.slow),
    ],
)
def test_three_steps_are_those_recorded(preset, data):
    dataset = tiny_dataset() if data == "all" else partial_dataset()
    with precision("float64"):
        problem = load_problem(tiny_config(preset, {"train.seed": 7}), dataset)
        state = new_state(problem)
        start, go_on = compile_training(problem).epoch, compile_training(problem).steps
        for number, expected in enumerate(RECORDED["steps"][f"{preset}/{data}"]):
            state, metrics = (go_on if number else start)(state, 1)
            found = {name: float(value) for name, value in metrics.items()}
            assert found == pytest.approx(expected, rel=1e-6, abs=0), number
