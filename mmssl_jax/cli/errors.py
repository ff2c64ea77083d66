"""What a user can mend is shown as a message, without a traceback."""

import sys
from typing import NoReturn

from mmssl_jax.checkpoint import CheckpointError
from mmssl_jax.config import ConfigError
from mmssl_jax.data.dataset import DatasetError
from mmssl_jax.messages import clipped
from mmssl_jax.training.epochs import RunError

USER_ERRORS = (ConfigError, DatasetError, RunError, CheckpointError)


def leave(error: Exception) -> NoReturn:
    """Prints what a user can mend, and exits with status 2."""
    print(clipped(f"error: {error}"), file=sys.stderr)
    sys.exit(2)


def stopped() -> NoReturn:
    """Tells that a command was stopped which goes on when it is given again."""
    print("stopped; the same command goes on where it was", file=sys.stderr)
    sys.exit(130)
