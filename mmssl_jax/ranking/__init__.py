"""Ranking: embeddings to lists of items and their quality; knows nothing of training."""
