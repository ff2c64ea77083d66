"""The methods that `--method NAME` chooses from."""

from mmssl_jax.method import Method
from mmssl_jax.methods.freedom import Freedom
from mmssl_jax.methods.lattice import Lattice
from mmssl_jax.methods.lightgcn import LightGCN
from mmssl_jax.methods.mf import MF
from mmssl_jax.methods.mgcn import MGCN
from mmssl_jax.methods.mmhcl import MMHCL
from mmssl_jax.methods.mmssl import MMSSL

METHODS: dict[str, type[Method]] = {
    "mmssl": MMSSL,
    "lightgcn": LightGCN,
    "mf": MF,
    "freedom": Freedom,
    "lattice": Lattice,
    "mgcn": MGCN,
    "mmhcl": MMHCL,
}
DEFAULT = "mmssl"
