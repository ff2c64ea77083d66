"""How XLA compiles, and where what it has compiled is kept."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp

from mmssl_jax.files import user_path

R = TypeVar("R")

# With jax 0.10, XLA's default schedule on a CPU keeps work arrays for longer. Its default for sums
# and products of matrices is YNNPACK, faster than XLA itself for sums, slower for wide products.
_CPU_OPTIONS = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}


def keep_compilations(setting: str) -> None:
    """Keeps compiled programs on disk, so that the next process need not compile them.

    Args:
      setting: a folder; auto for `mmssl_jax` in the user's cache folder; off. Where JAX has been
        told a folder already, or told to keep none, that stands. A user without a home folder
        keeps none.
    """
    told = jax.config.values
    if (
        setting == "off"
        or told["jax_compilation_cache_dir"]
        or not told["jax_enable_compilation_cache"]
    ):
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or user_path("~/.cache"))
    if setting == "auto" and not home.is_absolute():  # nobody's home
        return
    folder = home / "mmssl_jax" if setting == "auto" else user_path(setting)
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))


def compiler_options(platform: str) -> dict[str, str | bool]:
    """XLA's options for programs on a platform: none but on a CPU.

    What the environment's XLA_FLAGS say stands, and an option that this version of XLA does not
    know is left out.
    """
    if platform != "cpu":
        return {}
    told = os.environ.get("XLA_FLAGS", "")
    return {
        name: value
        for name, value in _CPU_OPTIONS.items()
        if name not in told and _is_known(name, value)
    }


@functools.cache
def _is_known(name: str, value: str | bool) -> bool:
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def compile_ahead(function: Callable[..., R], options: dict[str, str | bool]) -> Callable[..., R]:
    """A function that JAX can lower, compiled with these options, once for each kind of arguments.

    pmap takes no compiler options, so its program is lowered and compiled here. Where it is itself
    traced, the function is called as it is. Arguments must lie on the devices as the first ones of
    their kind did.
    """
    if not options:
        return function
    compiled: dict[tuple, Callable[..., R]] = {}

    def call(*arguments: object) -> R:
        leaves, structure = jax.tree.flatten(arguments)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return function(*arguments)
        kind = structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        if kind not in compiled:
            lowered = function.lower(*arguments)  # type: ignore[attr-defined]
            compiled[kind] = lowered.compile(compiler_options=options)
        return compiled[kind](*arguments)

    return call
