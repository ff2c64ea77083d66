"""What is done of an epoch, as a checkpoint within it holds it."""

from typing import NamedTuple

import jax

from mmssl_jax.parallel import place_like
from mmssl_jax.training.steps import Tally


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
