"""Strict settings for every test: several fake devices, no silent rank promotion, shapes checked."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
).strip()

from jaxtyping import install_import_hook

# Checks the shape annotations of the whole package at run time, in tests only.
install_import_hook("mmssl_jax", "beartype.beartype")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
