"""Steps over rows of users and items that are spread over devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from mmssl_jax.layout import lay_out, make_whole, places, whole_rows
from mmssl_jax.method import Inputs, Scorer, Vectors
from mmssl_jax.parallel import (
    AXIS,
    BY_ROW,
    WHOLE,
    is_place,
    on_all,
    on_processor,
    place,
    placed,
    replicate,
    spread_rows,
)
from mmssl_jax.training.problem import Problem, TrainState, abstract_state
from mmssl_jax.training.steps import Training, go_on, no_tally


class Spread(NamedTuple):
    """A problem whose rows are spread over its devices: the method as it sees a device's rows, the
    inputs in their places, and the places of the arrays of inputs and states; lay_out and embed as
    in `Training`."""

    method: Any
    inputs: Inputs
    of_inputs: PyTree
    of_state: PyTree
    lay_out: Callable[[TrainState], TrainState]
    embed: Callable[[TrainState], Scorer]


def spread_problem(problem: Problem) -> Spread:
    """Spreads the rows of a problem with a layout."""
    layout, devices = problem.layout, problem.devices
    assert layout is not None
    bound: Any = problem.method
    method = dataclasses.replace(bound, axis=AXIS, nodes=layout.nodes)
    with on_processor():
        inputs = lay_out(problem.inputs, layout, method.ROWS)
    of_inputs, of_state = (places(x, method.ROWS) for x in (inputs, abstract_state(problem)))
    in_place = functools.partial(jax.tree.map, functools.partial(placed, devices), is_leaf=is_place)
    inputs, n_edges = place(inputs, in_place(of_inputs)), method.graph_edges()
    embed = spread_rows(
        lambda state, inputs: method.embed(state.method, inputs),
        devices,
        (of_state, of_inputs),
        Vectors(BY_ROW, BY_ROW),  # type: ignore[arg-type]  # their places
    )
    gather = jax.jit(lambda vectors: whole_rows(vectors, layout), out_shardings=on_all(devices))
    return Spread(
        method,
        inputs,
        of_inputs,
        of_state,
        jax.jit(
            lambda state: lay_out(state, layout, method.ROWS, n_edges),
            out_shardings=in_place(of_state),
        ),
        lambda state: gather(embed(state, inputs)),
    )


def spread_training(problem: Problem) -> Training:
    """Training where the rows of users and items are spread over the devices."""
    layout, devices, like = problem.layout, problem.devices, abstract_state(problem)
    assert layout is not None
    spread = spread_problem(problem)
    method, inputs, of_inputs, of_state = spread[:4]
    start = spread_rows(
        lambda state, inputs: state._replace(method=method.start_epoch(state.method, inputs)),
        devices,
        (of_state, of_inputs),
        of_state,
        donated=(0,),
    )
    steps = spread_rows(
        lambda state, tally, inputs, n_steps: go_on(method, state, tally, inputs, n_steps),
        devices,
        (of_state, WHOLE, of_inputs, WHOLE),
        (of_state, WHOLE),
        donated=(0,),
    )

    def require_spread(state: TrainState) -> TrainState:
        # A whole state might pass for a spread one, where the numbers of rows happen to fit.
        found = jax.tree.map(lambda leaf: leaf.sharding.spec == BY_ROW, state)
        if found != jax.tree.map(lambda x: x == BY_ROW, of_state, is_leaf=is_place):
            raise ValueError("the state is whole: give what `lay_out` makes of it")
        return state

    numbers = functools.cache(lambda n_steps: replicate(np.int32(n_steps), devices))
    return Training(
        spread.lay_out,
        jax.jit(
            lambda state: jax.tree.map(jnp.copy, make_whole(state, like, layout, method.ROWS)),
            out_shardings=on_all(devices),
        ),
        spread.embed,
        lambda state: start(require_spread(state), inputs),
        lambda state, tally, n: steps(require_spread(state), tally, inputs, numbers(n)),
        replicate(no_tally(problem.method, like, problem.inputs), devices),
    )
