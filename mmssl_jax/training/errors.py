"""What ends a run before its time."""


class RunError(RuntimeError):
    """A run that cannot start, continue or go on; the message says what to do."""


class DivergedError(RunError):
    """A loss, a parameter or an embedding is no longer finite."""
