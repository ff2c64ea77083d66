"""The `released` preset meets the numbers of the PyTorch release."""

from pathlib import Path

import pytest

from tests.parity.check import main
from tests.parity.golden import Golden, read_golden
from tests.parity.quantities import (
    Error,
    all_errors,
    forward_errors,
    golden_state,
    relative_error,
    teacher_forced,
)

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def golden() -> Golden:
    return read_golden(GOLDEN)


@pytest.fixture(scope="module")
def errors(golden: Golden) -> list[Error]:
    return all_errors(golden)


def test_every_quantity_is_within_its_tolerance(errors: list[Error]) -> None:
    exceeded = [error for error in errors if not error.error <= error.tolerance]
    assert not exceeded


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("loss ", 9),
        ("graph observed", 2),
        ("graph learned", 4),
        ("forward ", 12),
        ("critic input", 4),
        ("critic score", 4),
        ("critic gradient", 7),
        ("generator gradient", 7),
        ("critic update", 7),
        ("generator update", 7),
        ("critic change", 7),
        ("generator change", 7),
        ("final ", 2),
        ("metric ", 10),
    ],
)
def test_every_kind_of_quantity_is_covered(errors: list[Error], kind: str, count: int) -> None:
    assert sum(error.quantity.startswith(kind) for error in errors) == count


def test_a_wrong_parameter_exceeds_tolerances(golden: Golden) -> None:
    name = "init/generator/user_id_embedding.weight"
    wrong = golden._replace(arrays={**golden.arrays, name: golden.arrays[name] * 1.01})
    state = teacher_forced(wrong, golden_state(wrong), 0)
    assert any(error.error > error.tolerance for error in forward_errors(wrong, state, 0))


def test_relative_error_of_nan_is_infinite() -> None:
    assert relative_error([float("nan")], [1.0]) == float("inf")


def test_command_needs_a_golden_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no/such/directory"]) == 2
    assert "usage" in capsys.readouterr().out
