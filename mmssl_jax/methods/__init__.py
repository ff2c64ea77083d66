"""The methods that `--method NAME` chooses from."""

from mmssl_jax.method import Method
from mmssl_jax.methods.bm3 import BM3
from mmssl_jax.methods.crossview import CrossView
from mmssl_jax.methods.freedom import Freedom
from mmssl_jax.methods.gfcf import GFCF
from mmssl_jax.methods.itemknn import ItemKNN
from mmssl_jax.methods.lattice import Lattice
from mmssl_jax.methods.lightgcn import LightGCN
from mmssl_jax.methods.mf import MF
from mmssl_jax.methods.mgcn import MGCN
from mmssl_jax.methods.mmhcl import MMHCL
from mmssl_jax.methods.mmssl import MMSSL
from mmssl_jax.methods.simgcl import SimGCL
from mmssl_jax.methods.vbpr import VBPR

METHODS: dict[str, type[Method]] = {
    "mmssl": MMSSL,
    "crossview": CrossView,
    "lightgcn": LightGCN,
    "mf": MF,
    "vbpr": VBPR,
    "simgcl": SimGCL,
    "bm3": BM3,
    "freedom": Freedom,
    "lattice": Lattice,
    "mgcn": MGCN,
    "mmhcl": MMHCL,
    "gfcf": GFCF,
    "itemknn": ItemKNN,
}
DEFAULT = "mmssl"
