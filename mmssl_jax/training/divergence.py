"""Figures that are not finite: the first one is named, with what is kept and how to go on."""

import shlex
from collections.abc import Mapping, Sequence

from mmssl_jax.config import flatten
from mmssl_jax.digest import array_names
from mmssl_jax.training.errors import DivergedError
from mmssl_jax.training.part import Part
from mmssl_jax.training.problem import Problem, TrainState
from mmssl_jax.training.progress import Outlets, Progress


def by_name(state: TrainState, finite: Sequence[bool]) -> dict[str, bool]:
    """{array's name: whether it is finite}."""
    return dict(zip(array_names(state), finite, strict=True))


def check_finite(
    problem: Problem,
    part: Part,
    arrays: Mapping[str, bool],
    progress: Progress,
    outlets: Outlets,
) -> None:
    """Raises DivergedError, naming what was not finite first, and what is kept.

    part: the epoch's steps. arrays: {name: whether it is finite} of the state after them.
    """
    at = {name: step for name, step in part.broken.items() if step >= 0}
    broken = [name for name, is_finite in arrays.items() if not is_finite]
    if at:
        first = min(at.values())
        names = [name for name, step in at.items() if step == first]
        what = f"step {first + 1}: {', '.join(names)} not finite"
    elif broken:
        what = f"after step {progress.steps + part.steps}: {broken[0]} not finite"
        what += f" ({len(broken)} such arrays)" if len(broken) > 1 else ""
    else:
        return
    kept = outlets.checkpoints.last.latest_step()
    rates = problem.method.RATES
    command = f"python train.py --run {shlex.quote(str(outlets.run))}"
    if kept is None:
        advice = "nothing had been saved yet"
    else:
        rate = next((name for name in rates if name.startswith("optim.")), None)
        changed = "" if rate is None else f" --{rate} {flatten(problem.config)[rate] / 10:.3g}"
        advice = f"the state after step {kept} is kept; go on from it: {command} --resume{changed}"
    raise DivergedError(
        f"epoch {progress.epochs}, {what}; {advice}. Lower {', '.join(rates)}, or look at the "
        "features' scale (python -m mmssl_jax.data.check DIR)"
    )
