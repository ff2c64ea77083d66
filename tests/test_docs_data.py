"""The main example of docs/data.md runs as it stands, and the page names every option."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmssl_jax.cli.prepare import prepare_parser
from mmssl_jax.data import read_dataset

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLE = re.search(r"<!-- tests/test_docs_data.py .*?-->\n```bash\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_names_every_option_with_its_default():
    parser = prepare_parser()
    defaults = parser.get_defaults()
    table = PAGE[PAGE.index("### Options") : PAGE.index("### Splits")]
    documented = {
        flag: cells[1].replace("`", "").split(", ")
        for cells in (
            line.strip("| ").split(" | ") for line in table.splitlines() if "| `--" in line
        )
        for flag in re.findall(r"--([\w.]+)", cells[0])
    }
    options = set(parser.parse_args(["--interactions=a", "--out=b"]).keys())
    assert set(documented) == options | {"config"}
    for flag in ("split.method", "text.encoder", "image.encoder", "text.batch_size", "split.seed"):
        assert documented[flag] == [str(defaults[flag])]
    assert documented["split.validation"] == [str(defaults["split.validation"])] * 2
    assert documented["core.users"] == [str(defaults["core.users"])] * 2
    assert documented["user_column"] == [defaults["user_column"], defaults["item_column"]]


@pytest.mark.extras
def test_the_example_runs_and_its_content_relates_to_taste(tmp_path):
    pytest.importorskip("polars", reason="needs the extra `tables`")
    pytest.importorskip("PIL", reason="needs the extra `encoders`")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    assert EXAMPLE is not None
    done = subprocess.run(
        ["bash", "-euc", EXAMPLE[1]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "train: python train.py --data.path data/shop" in done.stdout

    data = read_dataset(tmp_path / "data" / "shop")
    assert data.modalities == ("image", "text")
    assert 0 < data.missing_rate("image") < 0.25
    assert 0 < data.missing_rate("text") < 0.25
    # Items that one user bought are more alike than by chance, in looks and in titles.
    bought = np.zeros((data.n_users, data.n_items))
    bought[tuple(data.train.T)] = 1
    rng = np.random.default_rng(0)
    for modality in data.modalities:
        present = data.presence[modality]
        rows = data.features[modality][present]
        rows = rows - rows.mean(axis=0)
        alike = rows @ rows.T
        together = (bought.T @ bought)[np.ix_(present, present)]
        np.fill_diagonal(together, 0)
        shuffled = [
            (alike[np.ix_(order, order)] * together).sum()
            for order in (rng.permutation(len(rows)) for _ in range(100))
        ]
        actual = (alike * together).sum()
        assert actual > np.mean(shuffled) + 5 * np.std(shuffled), modality
