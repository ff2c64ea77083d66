"""From a user's own interactions, texts, images and features to a dataset folder; imports no JAX.

In the order of the data: settings.py and paths.py; tables.py (with delimited.py), ids.py, times.py
and log.py; core.py, splits.py; content.py (with encoders.py, cache.py, npz.py and images.py),
features.py (with vectors.py); pipeline.py, write.py.
"""
