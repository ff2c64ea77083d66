"""Imports go one way, devices are named in one file, and the entry scripts stay thin."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mmssl_jax"
ORDER = (
    "data",
    "graph",
    "sampling",
    "losses",
    "method",
    "layout",
    "ranking",
    "methods",
    "training",
    "study",
    "recommend",
    "report",
    "tune",
    "compare",
    "cli",
)
# These know no stage. run_config.py stands on the methods, whose settings it reads.
LEAVES = (
    "blocks",
    "config",
    "compilation",
    "nodes",
    "norms",
    "optimizers",
    "orbax_threads",
    "parallel",
    "precision",
    "checkpoint",
    "digest",
    "records",
    "files",
    "hosts",
    "messages",
    "settings_yaml",
    "settings_parser",
)
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(module: str) -> str:
    """data, graph, ... or the file's name, of a module's full name."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    """Full names of what a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def parts_imported(path: Path) -> set[str]:
    own = {name for name in imports(path) if name.split(".")[0] == "mmssl_jax"}
    return {part_of(name) for name in own}


def module_part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    part, imported = module_part(path), parts_imported(path)
    if path.name == "__main__.py":
        allowed = {"cli"}
    elif part == "prepare":
        allowed = {"data", "prepare", *LEAVES}
    elif path == PACKAGE / "cli" / "prepare.py":
        allowed = {"cli", "data", "prepare", *LEAVES}
    elif part in ORDER:
        allowed = {*ORDER[: ORDER.index(part) + 1], *LEAVES}
        if ORDER.index(part) >= ORDER.index("training"):
            allowed.add("run_config")
    elif part in LEAVES:
        allowed = set(LEAVES)
    elif part == "run_config":
        allowed = {"methods", *LEAVES}
    else:
        assert part == "__init__", f"{path} has no place in the order"
        allowed = set()
    assert imported <= allowed, f"{part} may not import {sorted(imported - allowed)}"


def test_data_imports_nothing_of_the_package_but_itself():
    for path in (PACKAGE / "data").glob("*.py"):
        allowed = {"data", "files", "messages"} | ({"config"} if path.name == "load.py" else set())
        assert parts_imported(path) <= allowed, path


def test_parallel_and_checkpoint_know_no_model():
    assert parts_imported(PACKAGE / "parallel.py") <= {"config", "compilation"}
    assert parts_imported(PACKAGE / "checkpoint.py") <= {
        "digest", "hosts", "messages", "orbax_threads", "parallel",
    }  # fmt: skip


def test_the_parser_is_known_to_the_command_line_and_settings_alone():
    users = {module_part(path) for path in FILES if any("jsonargparse" in n for n in imports(path))}
    assert users == {"config", "run_config", "settings_parser", "cli", "methods", "prepare"}


@pytest.mark.parametrize(
    "module", ["mmssl_jax", "mmssl_jax.data", "mmssl_jax.data.readers", "mmssl_jax.cli.prepare"]
)
def test_data_and_prepare_need_neither_jax_nor_scipy(module):
    heavy = ["jax", "jaxlib", "flax", "scipy", "torch", "polars", "PIL"]
    script = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def attributes(path: Path) -> set[str]:
    """Names and attributes that the code of a file uses; prose does not count."""
    tree = ast.parse(path.read_text())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return names | {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


DEVICE_WORDS = {
    "pmap", "shard_map", "devices", "local_devices", "device_count", "local_device_count",
    "psum", "pmean", "all_gather", "axis_index", "Mesh", "NamedSharding", "PartitionSpec",
    "device_put",
}  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_parallel_spreads_over_devices(path):
    if path.name == "parallel.py":
        assert {"pmap", "shard_map", "local_devices"} <= attributes(path)
        return
    tree = ast.parse(path.read_text())
    of_jax = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[0] == "jax"
    }
    of_jax |= {name.split(".")[-1] for name in imports(path) if name.split(".")[0] == "jax"}
    assert not of_jax & DEVICE_WORDS


@pytest.mark.parametrize("name", ["train.py", "eval.py"])
def test_entry_scripts_are_short(name):
    lines = (ROOT / name).read_text().splitlines()
    assert len(lines) <= 60
    assert {n.split(".")[0] for n in imports(ROOT / name)} == {"mmssl_jax"}
