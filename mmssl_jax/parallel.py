"""Devices: the only file that knows how a per-device function is spread over several of them.

A per-device function sees its own share of the sharded arguments and a full copy of the others, and
combines with its peers through the collectives below. `jax.pmap` and `jax.shard_map` run the same
function and give the same numbers.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import (
    AbstractMesh,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

from mmssl_jax.compilation import compile_ahead, compiler_options
from mmssl_jax.config import ConfigError

AXIS = "devices"
Transform = Literal["pmap", "shard_map"]
R = TypeVar("R")
Tree = TypeVar("Tree")  # a pytree of arrays


def local_devices(count: int = 0) -> list[jax.Device]:
    """The first `count` local devices, or all of them for 0.

    Raises ConfigError when fewer are present.
    """
    devices = jax.local_devices()
    if count > len(devices):
        raise ConfigError(
            f"parallel.devices is {count}, but this machine has {len(devices)} local "
            f"{devices[0].platform} device(s); lower it, or use 0 for all of them"
        )
    return devices[: count or len(devices)]


def devices_of_all(count: int = 0) -> list[jax.Device]:
    """The first `count` devices of every host, or all of them for 0, by the hosts' numbers.

    Raises ConfigError when this host or another has fewer.
    """
    if not jax.distributed.is_initialized():
        return local_devices(count)
    found = [jax.local_devices(process_index=host) for host in range(jax.process_count())]
    fewest = min(map(len, found))
    if count > fewest:
        raise ConfigError(
            f"parallel.devices is {count}, but process {[*map(len, found)].index(fewest)} has "
            f"{fewest} device(s); lower it, or use 0 for all"
        )
    return [device for of_host in found for device in of_host[: count or len(of_host)]]


def on_one_host(devices: Sequence[jax.Device]) -> bool:
    """Whether all devices are this process's own."""
    return all(device.process_index == jax.process_index() for device in devices)


def spread(
    function: Callable[..., R],
    devices: Sequence[jax.Device],
    transform: Transform,
    sharded: Sequence[bool],
    donated: Sequence[int] = (),
) -> Callable[..., R]:
    """Compiles a per-device function into a call over all `devices`.

    Args:
      function: sees one share of each sharded argument, without the leading axis of len(devices),
        and uses the collectives of this file with `AXIS`. Its outputs must be equal on all devices.
      sharded: for each positional argument, whether it is sharded (else replicated).
      donated: positions of arguments whose memory the outputs take over.
    Returns: a callable of the whole arguments; its outputs carry no device axis.
    """
    function, options = in_float32(function), compiler_options(devices[0].platform)
    if transform == "pmap" and on_one_host(devices):
        # pmap needs at least one mapped argument. The devices' numbers are one, and are not used.
        numbers = share_out(jnp.arange(len(devices)), devices)
        mapped = jax.pmap(
            lambda _, *arguments: function(*arguments),
            axis_name=AXIS,
            in_axes=(0, *(0 if is_sharded else None for is_sharded in sharded)),
            out_axes=None,
            devices=list(devices),
            donate_argnums=tuple(position + 1 for position in donated),
        )
        compiled = compile_ahead(mapped, options)
        return lambda *arguments: compiled(numbers, *arguments)

    def on_shard(*arguments: object) -> R:
        shares = [
            jax.tree.map(lambda leaf: leaf[0], argument) if is_sharded else argument
            for argument, is_sharded in zip(arguments, sharded, strict=True)
        ]
        return function(*shares)

    specs = tuple(PartitionSpec(AXIS) if is_sharded else PartitionSpec() for is_sharded in sharded)
    mesh = mesh_of(devices)
    # check_vma=False keeps the rule of pmap that the transpose of a sum over devices is such a sum.
    sharing = jax.jit(
        jax.shard_map(
            on_shard, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
        ),
        donate_argnums=tuple(donated),
    )
    return compile_ahead(sharing, options)


def spread_rows(
    function: Callable[..., R],
    devices: Sequence[jax.Device],
    places: Sequence[Any],
    of_result: Any,
    donated: Sequence[int] = (),
) -> Callable[..., R]:
    """Compiles a per-device function into a call over all `devices`, with arrays whose rows are
    spread over them.

    Args:
      function: sees its own rows of what is spread and all of the rest.
      places: for each argument a tree of its structure, or a prefix of it, with `BY_ROW` or
        `WHOLE` at its leaves; of_result: the same for what the function returns.
      donated: as in `spread`.
    """
    sharing = jax.jit(
        sharded(function, mesh_of(devices), places, of_result), donate_argnums=tuple(donated)
    )
    return compile_ahead(sharing, compiler_options(devices[0].platform))


def sharded(
    function: Callable[..., R],
    mesh: Mesh | AbstractMesh,
    places: Sequence[Any],
    of_result: Any,
) -> Callable[..., R]:
    """`spread_rows` before it is compiled, over devices that need not be there."""
    over_devices: Callable[..., R] = jax.shard_map(
        in_float32(function),
        mesh=mesh,
        in_specs=tuple(places),
        out_specs=of_result,
        check_vma=False,  # as in `spread`
    )
    return over_devices


WHOLE = PartitionSpec()  # of an array that every device has whole
BY_ROW = PartitionSpec(AXIS)  # of one whose rows are spread over the devices


def is_place(node: Any) -> bool:
    """Whether a node of a tree is a place, and no tree."""
    return isinstance(node, PartitionSpec)


def placed(devices: Sequence[jax.Device], place: PartitionSpec) -> NamedSharding:
    """Where arrays of a place lie."""
    return NamedSharding(mesh_of(devices), place)


def in_float32(function: Callable[..., R]) -> Callable[..., R]:
    """The function with float32 matmuls, which are not the default of every accelerator."""

    @functools.wraps(function)
    def at_full_precision(*arguments: object) -> R:
        with jax.default_matmul_precision("float32"):
            return function(*arguments)

    return at_full_precision


def on_all(devices: Sequence[jax.Device]) -> NamedSharding:
    """Where arrays lie of which each device has a full copy, as `spread` wants its arguments."""
    return NamedSharding(mesh_of(devices), PartitionSpec())


def replicate(tree: Tree, devices: Sequence[jax.Device]) -> Tree:
    """Puts a full copy of every array on each device."""
    return _put(tree, on_all(devices))


def place_like(tree: Tree, like: Tree) -> Tree:
    """Puts numbers where the arrays of a tree of the same structure lie, in their types."""
    placed: Tree = jax.tree.map(
        lambda value, leaf: _put(np.asarray(value, leaf.dtype), leaf.sharding), tree, like
    )
    return placed


def on_host(tree: Tree) -> Tree:
    """Shapes and types of a tree of arrays, abstract, on the host's processor: read there, it takes
    no accelerator's memory and waits for none of its work."""
    where = SingleDeviceSharding(processor())
    abstract: Tree = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree
    )
    return abstract


def on_processor() -> contextlib.AbstractContextManager[Any]:
    """Makes arrays on the host's processor."""
    return jax.default_device(processor())


def processor() -> jax.Device:
    """The host's processor as a device, or the first one of another kind where JAX was told to use
    that alone."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def share_out(tree: Tree, devices: Sequence[jax.Device]) -> Tree:
    """Puts one slice of the leading axis of len(devices) on each device, for sharded arguments."""
    return _put(tree, NamedSharding(mesh_of(devices), PartitionSpec(AXIS)))


def place(tree: Tree, where: Tree) -> Tree:
    """Puts each array of a tree where a tree of its structure says."""
    there: Tree = jax.tree.map(_put, tree, where)
    return there


def _put(tree: Tree, place: Sharding) -> Tree:
    """Puts arrays in their place. Where this spans hosts, each has the whole arrays and takes what
    its devices hold: device_put would send all of them around to see that they are equal."""
    if place.is_fully_addressable:
        placed: Tree = jax.device_put(tree, place)
        return placed

    def put(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, place)
        whole = np.asarray(leaf)
        # An array of JAX has its types; of a number of Python's, JAX makes what it would.
        whole = whole.astype(jnp.result_type(leaf))
        return jax.make_array_from_callback(whole.shape, place, lambda index: whole[index])

    spread_out: Tree = jax.tree.map(put, tree)
    return spread_out


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """The devices as one axis, `AXIS`."""
    return Mesh(np.asarray(devices), (AXIS,))


def psum(tree: Tree, axis: str | None) -> Tree:
    """Sum over the devices of `axis`; the identity when there is no axis."""
    return tree if axis is None else jax.lax.psum(tree, axis)


def pmean(tree: Tree, axis: str | None) -> Tree:
    """Mean over the devices of `axis`; the identity when there is no axis."""
    return tree if axis is None else jax.lax.pmean(tree, axis)


def all_gather(tree: Tree, axis: str | None) -> Tree:
    """Concatenates the devices' shares along the leading axis; the identity without an axis."""
    return tree if axis is None else jax.lax.all_gather(tree, axis, tiled=True)


def psum_scatter(tree: Tree, axis: str | None) -> Tree:
    """Sum over the devices, of which each gets its share along the leading axis; the identity
    without an axis."""
    if axis is None:
        return tree
    return jax.lax.psum_scatter(tree, axis, tiled=True)


def share_of(tree: Tree, axis: str | None) -> Tree:
    """This device's equal share of arrays that all devices hold whole, along the leading axis."""
    if axis is None:
        return tree
    count, index = jax.lax.axis_size(axis), jax.lax.axis_index(axis)

    def share(leaf: jax.Array) -> jax.Array:
        size = leaf.shape[0] // count
        return jax.lax.dynamic_slice_in_dim(leaf, index * size, size)

    return jax.tree.map(share, tree)


def axis_size(axis: str | None) -> int:
    """Number of the devices of `axis`; 1 without an axis."""
    return 1 if axis is None else jax.lax.axis_size(axis)


def axis_index(axis: str | None) -> jax.Array:
    """Position of this device on `axis`, int32; 0 without an axis."""
    return jnp.int32(0) if axis is None else jax.lax.axis_index(axis)
