"""MMSSL, multi-modal self-supervised learning for recommendation, in JAX and Flax."""
