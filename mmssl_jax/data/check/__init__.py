"""The command `python -m mmssl_jax.data.check`: what features promise, before training."""
