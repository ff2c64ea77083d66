"""CrossView: interactions, and two views beside them, held together by contrast."""

from mmssl_jax.methods.crossview.method import CrossView

__all__ = ["CrossView"]
