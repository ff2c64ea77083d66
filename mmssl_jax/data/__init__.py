"""Interactions and item features as NumPy arrays; imports neither JAX nor SciPy."""

from mmssl_jax.data.dataset import Dataset, DatasetError, DatasetWarning
from mmssl_jax.data.readers import LAYOUTS, read_dataset
from mmssl_jax.data.synthetic import planted_dataset, planted_vectors

__all__ = [
    "LAYOUTS",
    "Dataset",
    "DatasetError",
    "DatasetWarning",
    "planted_dataset",
    "planted_vectors",
    "read_dataset",
]
