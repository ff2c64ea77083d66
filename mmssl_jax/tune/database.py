"""Where a search keeps its trials: Optuna's study in an SQLite file."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmssl_jax.training.errors import RunError

DATABASE = "study.db"


def load_optuna() -> Any:
    """The optional dependency; raises RunError when it is not installed."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise RunError("the search needs Optuna: pip install -e '.[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextmanager
def readable_study(database: Path) -> Iterator[None]:
    """What the database says of a file that is damaged, or cannot be written, is a RunError."""
    import sqlalchemy
    from optuna.exceptions import StorageInternalError

    if database.exists() and not database.is_file():
        raise RunError(f"{database} is no file: move it away, or name another --out")
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
        why = str(error.__cause__ or error).splitlines()[0][:300]
        raise RunError(
            f"{database}: the trials of the search cannot be read or written ({why}); put it back "
            "from a copy, free some space, or name another --out"
        ) from error


def open_study(optuna: Any, database: Path, pruner: Any) -> Any:
    """The study in a database; trials that were interrupted wait there to be continued."""
    state, place = optuna.trial.TrialState, database.absolute()
    # A URL would end at a ? of the path, and decode its %.
    storage = optuna.storages.RDBStorage(
        "sqlite:///study.db",
        engine_kwargs={"creator": lambda: sqlite3.connect(place, check_same_thread=False)},
    )
    study = optuna.create_study(
        study_name="mmssl_jax",
        storage=storage,
        direction="maximize",
        pruner=pruner,
        load_if_exists=True,
    )
    for trial in study.get_trials(states=(state.RUNNING,)):
        study.enqueue_trial(trial.params)
        study.tell(trial.number, state=state.FAIL)
    return study
