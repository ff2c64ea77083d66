"""Features out of scale are told before training, by modality."""

import dataclasses

import numpy as np
import pytest

from mmssl_jax.config import override
from mmssl_jax.data.facts import scale_warnings
from mmssl_jax.methods.mf import MFConfig
from mmssl_jax.training.loop import fit
from tests.problems import tiny_dataset


def scaled(change) -> list[str]:
    """The warnings of the tiny dataset after a change of the features of `visual`."""
    dataset = tiny_dataset()
    rows = change(dataset.features["visual"].copy()).astype(np.float32)
    return scale_warnings(
        dataclasses.replace(dataset, features=dataset.features | {"visual": rows})
    )


def with_column(rows: np.ndarray, column: int, factor: float) -> np.ndarray:
    rows[:, column] *= factor
    return rows


@pytest.mark.parametrize(
    "change",
    [lambda rows: rows, lambda rows: 100 * rows, lambda rows: 0 * rows, lambda rows: rows / 1000],
)
def test_features_of_a_usual_scale_are_not_told(change):
    assert scaled(change) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: with_column(rows, 3, 1e5), "values as large as"),
        (lambda rows: with_column(rows, 3, -1e5), "in column 3"),
        (lambda rows: with_column(rows, 2, 1e20), "of which float32 cannot hold the square"),
        (lambda rows: rows * 1e-9, "no value larger than"),
        (lambda rows: with_column(rows * 1e-5, 4, 1e7), "column 4 varies"),
    ],
)
def test_features_out_of_scale_are_told_with_modality_and_advice(change, says):
    (line,) = scaled(change)
    assert "the features of modality visual are out of scale" in line
    assert says in line
    assert "scale them" in line
    assert "\n" not in line


def test_rows_of_items_that_lack_a_modality_do_not_count():
    dataset = tiny_dataset()
    present = np.arange(dataset.n_items) > 0
    dataset.features["visual"][0] = 1e9
    assert scale_warnings(dataclasses.replace(dataset, presence={"visual": present})) == []


def test_a_run_tells_before_it_trains(tmp_path, capsys):
    dataset = tiny_dataset()
    dataset.features["acoustic"][5, 1] = 3e4
    short = {"data.format": "synthetic", "train.epochs": 1, "train.max_steps": 1}
    config = override(MFConfig(), {**short, "sampling.batch_size": 48})
    fit(config, tmp_path / "run", dataset=dataset)
    said = capsys.readouterr().out
    warning = said.index("modality acoustic are out of scale: values as large as 3e+04")
    assert warning < said.index("training;")
