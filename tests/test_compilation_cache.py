import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import jax, jax.numpy as jnp
from mmssl_jax.compilation import keep_compilations
keep_compilations({setting!r})
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((9, 9))).block_until_ready()
print(jax.config.jax_compilation_cache_dir)
"""


def folder_of(setting, home, **variables):
    """Where a process with this setting keeps what it compiles."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_ENABLE_COMPILATION_CACHE")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(setting=setting)],
        env={**environment, **variables},
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_user_without_a_home_folder_keeps_none(tmp_path, monkeypatch):
    nobody = "import os.path; os.path.expanduser = lambda path: path\n"
    monkeypatch.setattr(sys.modules[__name__], "PROGRAM", nobody + PROGRAM)
    assert folder_of("auto", tmp_path, XDG_CACHE_HOME="") == "None"


@pytest.mark.parametrize("setting", ["auto", "here"])
def test_programs_are_kept_in_the_folder(tmp_path, setting):
    expected = tmp_path / ("mmssl_jax" if setting == "auto" else "here")
    assert folder_of(setting, tmp_path) == str(expected)
    assert [path for path in expected.iterdir() if "lambda" in path.name]


def test_off_keeps_nothing(tmp_path):
    assert folder_of("off", tmp_path) == "None"
    assert list(tmp_path.iterdir()) == []


def test_what_jax_was_told_stands(tmp_path):
    other = str(tmp_path / "other")
    assert folder_of("auto", tmp_path, JAX_COMPILATION_CACHE_DIR=other) == other
    told = folder_of("auto", tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")
    assert told == "None"
