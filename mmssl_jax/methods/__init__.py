"""The methods that `--method NAME` chooses from."""

from mmssl_jax.method import Method
from mmssl_jax.methods.gfcf import GFCF
from mmssl_jax.methods.itemknn import ItemKNN
from mmssl_jax.methods.lightgcn import LightGCN
from mmssl_jax.methods.mf import MF
from mmssl_jax.methods.mmssl import MMSSL

METHODS: dict[str, type[Method]] = {
    "mmssl": MMSSL,
    "lightgcn": LightGCN,
    "mf": MF,
    "gfcf": GFCF,
    "itemknn": ItemKNN,
}
DEFAULT = "mmssl"
