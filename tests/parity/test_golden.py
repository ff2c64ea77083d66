"""The `released` preset meets the numbers of the PyTorch release."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmssl_jax.config import override
from tests.parity.check import main, not_covered
from tests.parity.golden import Golden, GoldenError, golden_draws, read_golden
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


@pytest.fixture
def renamed(tmp_path: Path) -> Path:
    """The golden directory with names of modalities whose alphabet is not the release's order."""
    directory = tmp_path / "renamed"
    shutil.copytree(GOLDEN, directory)
    (folder,) = (directory / "data").iterdir()
    arrays = dict(np.load(GOLDEN / "golden.npz"))
    for old, new in (("image", "visual"), ("text", "acoustic_transcript")):
        (folder / f"{old}_feat.npy").rename(folder / f"{new}_feat.npy")
        arrays = {re.sub(rf"(?<=/){old}(?=_|$)", new, key): value for key, value in arrays.items()}
    np.savez(directory / "golden.npz", **arrays)
    return directory


@pytest.mark.slow
def test_other_names_of_modalities(renamed: Path) -> None:
    errors = all_errors(read_golden(renamed))
    assert not [error for error in errors if not error.error <= error.tolerance]
    assert any("acoustic_transcript" in error.quantity for error in errors)


def test_rows_are_put_into_our_order(golden: Golden, renamed: Path) -> None:
    other = read_golden(renamed)
    assert (golden.modalities, other.modalities) == (
        ("image", "text"),
        ("visual", "acoustic_transcript"),
    )
    alpha, swapped = (golden_draws(g, 0).game.alpha for g in (golden, other))
    np.testing.assert_array_equal(alpha, swapped[:, ::-1])


def test_what_a_golden_run_cannot_show_is_said(golden: Golden) -> None:
    assert not_covered(golden) == []
    short = golden._replace(constants={**golden.constants, "steps": golden.constants["T"] + 1})
    assert "a rebuilt graph, which step 4 would use: there are 4" in not_covered(short)
    without = override(golden.setup.config, {"loss.contrastive": 0.0, "game.weight": 0.0})
    found = not_covered(golden._replace(setup=replace(golden.setup, config=without)))
    assert "loss contrastive_text, whose weight is 0" in found
    assert "loss gradient_penalty, whose weight is 0" in found


def test_a_missing_array_is_named(renamed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = dict(np.load(renamed / "golden.npz"))
    arrays.pop("step2/graph/visual_iu")
    np.savez(renamed / "golden.npz", **arrays)
    assert main([str(renamed)]) == 1
    assert "lacks 1 arrays, step2/graph/visual_iu first" in capsys.readouterr().out


def test_another_dataset_than_the_arrays_is_refused(renamed: Path) -> None:
    (folder,) = (renamed / "data").iterdir()
    features = np.load(folder / "visual_feat.npy")
    np.save(folder / "visual_feat.npy", features + 1)
    with pytest.raises(GoldenError, match=r"data/visual of golden\.npz is not the folder's"):
        read_golden(renamed)


def test_relative_error_of_nan_is_infinite() -> None:
    assert relative_error([float("nan")], [1.0]) == float("inf")


def test_command_needs_a_golden_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no/such/directory"]) == 2
    assert "usage" in capsys.readouterr().out
