"""MMSSL: the method, with its two presets. Read `reference.py` first."""

from mmssl_jax.methods.mmssl.method import MMSSL

__all__ = ["MMSSL"]
