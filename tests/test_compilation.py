import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmssl_jax import compilation, parallel
from mmssl_jax.compilation import compile_ahead, compiler_options

KNOWN = {"xla_cpu_enable_fast_math": False}


def test_there_are_options_for_a_cpu_alone(monkeypatch):
    monkeypatch.setattr(compilation, "_CPU_OPTIONS", KNOWN)
    assert compiler_options("cpu") == KNOWN
    assert compiler_options("gpu") == compiler_options("tpu") == {}


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(compilation, "_CPU_OPTIONS", {**KNOWN, "xla_cpu_of_another_version": "1"})
    assert compiler_options("cpu") == KNOWN


def test_what_the_environment_says_stands(monkeypatch):
    monkeypatch.setattr(compilation, "_CPU_OPTIONS", KNOWN)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert compiler_options("cpu") == {}


def test_programs_compile_with_the_options_once_for_each_kind_of_arguments():
    asked = []

    class Lowerable:
        def __call__(self, *arguments):
            raise AssertionError("this is lowered, not called")

        def lower(self, *arguments):
            lowered = jax.jit(lambda x: {"double": 2 * x["x"]}).lower(*arguments)
            asked.append(arguments[0]["x"].shape)
            return lowered

    double = compile_ahead(Lowerable(), KNOWN)
    for length in (2, 3, 2):
        result = double({"x": jnp.arange(length)})
        np.testing.assert_array_equal(result["double"], 2 * np.arange(length))
    assert asked == [(2,), (3,)]


def test_the_options_reach_the_compiler():
    double = compile_ahead(jax.jit(lambda x: 2 * x), {"xla_cpu_of_another_version": "1"})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_cpu_of_another_version"):
        double(1.0)


@pytest.mark.parametrize("transform", ["pmap", "shard_map"])
def test_what_is_spread_over_devices_has_the_options(transform, monkeypatch):
    monkeypatch.setattr(
        parallel, "compiler_options", lambda platform: {f"xla_{platform}_of_another_version": "1"}
    )
    devices = jax.local_devices()[:2]
    double = parallel.spread(lambda x: 2 * x, devices, transform, [False])
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_cpu_of_another_version"):
        double(parallel.replicate(jnp.ones(2), devices))


def test_numbers_are_arguments_too():
    double = compile_ahead(jax.jit(lambda x, y: x * y), KNOWN)
    assert double(jnp.float32(3), 2.0) == 6


def test_a_traced_function_is_called_as_it_is():
    double = compile_ahead(jax.jit(lambda x: 2 * x), KNOWN)
    assert jax.jit(lambda x: double(x) + 1)(3.0) == 7


def test_without_options_a_function_is_called_as_it_is():
    function = jax.jit(jnp.sin)
    assert compile_ahead(function, {}) is function
