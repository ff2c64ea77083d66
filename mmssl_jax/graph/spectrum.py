"""The leading singular vectors of a normalised user-item graph, by subspace iteration.

With A = D_U^-1/2 R D_I^-1/2, the largest singular value is 1, once for each connected component c
of the graph, and its vector is known: q_i = sqrt(d_i / sum over c of d) on c's items, 0 elsewhere.
A user or two with items of their own are a component, and there may be hundreds of them. So that
they do not use up the rank, the vectors of the value 1 count as one, and are kept apart.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from mmssl_jax.graph.bipartite import BipartiteGraph, observed_graph
from mmssl_jax.graph.propagate import propagate
from mmssl_jax.norms import inverse_norm
from mmssl_jax.parallel import in_float32

# A subspace of twice as many vectors as wanted, and of some more where these are few: the error of
# the last one falls each time by (s_2r+1 / s_r)^2, not by (s_r+1 / s_r)^2, which can be nearly 1.
LEAST_SPARE, ROUNDS = 16, 60
# A square below this share of the largest is float32's rounding.
LEAST = 1e-6


class Components(NamedTuple):
    """Each item's connected component, named by its first item, and its entry of the component's
    vector q: 0 for an item without interactions."""

    of_item: Int[Any, " I"]
    vector: Float[Any, " I"]


class Spectrum(NamedTuple):
    """The right singular vectors: those of the value 1 by component, and those of the next smaller
    values, largest first; zeros where there are fewer of them above 0."""

    components: Components
    values: Float[Array, " R"]
    vectors: Float[Array, "I R"]


def components_of(edges: Int[np.ndarray, "E 2"], n_users: int, n_items: int) -> Components:
    """The components of (user, item) pairs: each item takes the smallest name that a user of its
    has seen, and the name's own name, until no name changes."""
    users, items = edges.T
    names = np.arange(n_items)
    while True:
        of_user = np.full(n_users, n_items)
        np.minimum.at(of_user, users, names[items])
        smaller = names.copy()
        np.minimum.at(smaller, items, of_user[users])
        smaller = smaller[smaller]
        if np.array_equal(smaller, names):
            break
        names = smaller
    degree = np.bincount(items, minlength=n_items)
    total = np.bincount(names, degree, minlength=n_items)[names]
    return Components(names, np.sqrt(degree / np.maximum(total, 1)).astype(np.float32))


def spectrum(
    key: Key[Array, ""], edges: Int[np.ndarray, "E 2"], n_users: int, n_items: int, rank: int
) -> Spectrum:
    """The right singular vectors of A for the `rank` largest singular values, 1 counted once; of
    all of them where there are fewer.

    key: draws the subspace that the iteration starts with.
    """
    components = components_of(edges, n_users, n_items)
    n_others = min(rank - 1, n_users, n_items)
    if not n_others:
        return Spectrum(components, jnp.zeros(0), jnp.zeros((n_items, 0)))
    graph = observed_graph(edges, n_users, n_items, "symmetric")
    width = min(n_others + max(n_others, LEAST_SPARE), n_items)
    start = jax.random.normal(key, (n_items, width))
    known = Components(*map(jnp.asarray, components))
    values, vectors = _iterate(start, graph, known, n_users)
    return Spectrum(components, values[:n_others], vectors[:, :n_others])


@functools.partial(jax.jit, static_argnums=3)
@in_float32
def _iterate(
    start: Float[Array, "I W"], graph: BipartiteGraph, known: Components, n_users: int
) -> tuple[Float[Array, " W"], Float[Array, "I W"]]:
    """Singular values and vectors of A without its components, from rounds of A'A.

    In the end the basis is turned to the vectors that A maps to orthogonal ones (Rayleigh, Ritz).
    """
    n_items = start.shape[0]
    q = known.vector[:, None]

    def without_known(x: Float[Array, "I W"]) -> Float[Array, "I W"]:
        of_component = jax.ops.segment_sum(q * x, known.of_item, n_items)
        return x - q * of_component[known.of_item]

    def one_round(_: Int[Array, ""], basis: Float[Array, "I W"]) -> Float[Array, "I W"]:
        of_users = propagate(graph.to_users, basis, n_users)
        return _orthonormal(without_known(propagate(graph.to_items, of_users, n_items)))

    basis = jax.lax.fori_loop(0, ROUNDS, one_round, _orthonormal(without_known(start)))
    squares, turn = _squares(propagate(graph.to_users, basis, n_users))
    # All of them are below 1, the one that was taken out.
    squares = jnp.where(squares > LEAST, squares, 0.0)
    return jnp.sqrt(squares), jnp.where(squares[None, :] > 0, basis @ turn, 0.0)


def _squares(x: Float[Array, "N W"]) -> tuple[Float[Array, " W"], Float[Array, "W W"]]:
    """Squares of the singular values of x, largest first, and its right singular vectors."""
    squares, turn = jnp.linalg.eigh(x.T @ x)
    return squares[::-1], turn[:, ::-1]


def _orthonormal(x: Float[Array, "I W"]) -> Float[Array, "I W"]:
    """Orthonormal columns that span x's, and zeros for those that x lacks.

    By the eigenvectors of x'x: a decomposition of x itself takes longer than all else together.
    """
    squares, turn = _squares(x)
    squares = jnp.where(squares > LEAST * squares[0], squares, 0.0)
    return x @ (turn * inverse_norm(squares)[None, :])
