"""Epochs that take long are run in pieces, between which the host can save, and be stopped."""

from typing import NamedTuple

import jax

from mmssl_jax.parallel import place_like
from mmssl_jax.training.problem import Tally

AT_MOST = 20.0  # seconds of a piece: less than clusters leave a process after SIGTERM


class Part(NamedTuple):
    """A `Tally` on the host, as plain numbers: what is done of an epoch."""

    steps: int
    means: dict[str, float]
    broken: dict[str, int]

    @classmethod
    def of(cls, tally: Tally) -> "Part":
        """Waits for the steps."""
        host = jax.device_get(tally)
        return cls(
            int(host.steps),
            {name: float(mean) for name, mean in host.means.items()},
            {name: int(step) for name, step in host.broken.items()},
        )

    def tally(self, like: Tally) -> Tally:
        """The same on the devices of `like`; a number of 32 bits comes back as it was."""
        return place_like(Tally(*self), like)  # type: ignore[arg-type]  # plain numbers


NOT_BEGUN = Part(0, {}, {})


def piece_length(minutes: float, seconds: float, n_steps: int) -> int:
    """Steps of a piece: all of a short rest of an epoch, else as many as take AT_MOST seconds, or
    the time between two checkpoints if that is shorter.

    minutes: between checkpoints, 0 for none within an epoch. seconds: of a step, 0 if not known.
    """
    longest = min(AT_MOST, 60 * minutes)
    if not minutes or not seconds or n_steps * seconds <= longest:
        return n_steps
    return max(1, int(longest / seconds))
