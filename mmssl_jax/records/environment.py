"""What a run ran on."""

import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "jraph", "numpy")


def environment(devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Versions and hardware; nothing that names a person, a path or a host."""
    return {
        "mmssl_jax": _version("mmssl_jax"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": [f"{device.platform} {device.device_kind}" for device in devices],
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
