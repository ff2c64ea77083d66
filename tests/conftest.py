"""Strict settings of every test: several fake devices, no rank promotion, shapes checked."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
).strip()
# Compiling takes most of the time of these tests, and their arrays are tiny.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Neither the user's cache nor what another test has left there.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

from jaxtyping import install_import_hook

# Checks the shape annotations at run time, in tests only. Settings stay out, and with them the
# methods of one file: their number types are the flag parser's, which plain floats are no instances
# of.
STAGES = (
    "blocks",
    "compilation",
    "data",
    "graph",
    "losses",
    *(
        f"methods.mmssl.{part}"
        for part in (
            "draws",
            "encoders",
            "fast",
            "fusion",
            "game",
            "inductive",
            "learned_graphs",
            "losses",
            "method",
            "model",
            "reference",
            "renewal",
            "state",
            "step",
        )
    ),
    "norms",
    "optimizers",
    "sampling",
    "ranking",
    "training",
    "recommend",
    "report",
    "parallel",
    "precision",
)
install_import_hook([f"mmssl_jax.{stage}" for stage in STAGES], "beartype.beartype")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
