"""A whole run, with which those that were harmed are compared."""

import pytest

from mmssl_jax.cli.train import train_command
from tests.faults.runs import outcome, settings
from tests.problems import share_programs


@pytest.fixture(scope="session", autouse=True)
def compiled_once():
    with pytest.MonkeyPatch.context() as patch:
        share_programs(patch)
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The folder of the data."""
    folder = tmp_path_factory.mktemp("faults") / "data"
    settings(folder)
    return folder


@pytest.fixture(scope="session")
def whole(data):
    """The outcome of a run that nothing happened to."""
    run = data.parent / "whole"
    train_command([*settings(data), f"--run={run}"])
    return outcome(run)
