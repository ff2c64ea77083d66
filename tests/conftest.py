"""Strict settings of every test: several fake devices, no rank promotion, shapes checked."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
).strip()
# Compiling takes most of the time of these tests: it is done with little optimisation, once.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
COMPILED = Path(__file__).resolve().parents[1] / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

from jaxtyping import install_import_hook

# Checks the shape annotations at run time, in tests only. config.py stays out: its number types are
# the flag parser's, which plain floats are no instances of.
STAGES = ("data", "graph", "model", "losses", "ranking", "training", "parallel")
install_import_hook([f"mmssl_jax.{stage}" for stage in STAGES], "beartype.beartype")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
