"""A trained run in use: recommendations in raw ids, exports, new users and new items."""

from mmssl_jax.recommend.catalogue import NewItems
from mmssl_jax.recommend.recommender import Recommender

__all__ = ["NewItems", "Recommender"]
