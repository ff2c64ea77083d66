"""From a user's own interactions, texts, images and features to a dataset folder; imports no JAX.

In the order of the data: settings.py, tables.py, core.py, splits.py, content.py (with encoders.py,
cache.py and images.py) and features.py, pipeline.py, write.py.
"""
