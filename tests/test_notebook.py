"""The notebooks run as they stand, on the CPU."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def kernel_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name, value in {
        "EPOCHS": "2",
        "RUNS": str(tmp_path),
        "WORK": str(tmp_path),
        "DRIVE": str(tmp_path / "drive"),
        "PYTHONPATH": str(ROOT),
        "PATH": path,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "XLA_FLAGS": "",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def run(name: str) -> list[dict]:
    """The outputs of a notebook's cells."""
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_and_defines_nothing(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert len(notebook.cells) <= 14
    assert not any(line.startswith(("def ", "class ")) for s in sources for line in s.splitlines())
    assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.slow
def test_colab_trains_plots_evaluates_reports_recommends_and_copies(
    kernel_environment: Path,
) -> None:
    outputs = run("colab_tpu.ipynb")
    assert any("image/png" in output.get("data", {}) for output in outputs)
    printed = "".join(output.get("text", "") for output in outputs)
    assert "restored" in printed
    assert (kernel_environment / "notebook-mine" / "result.json").is_file()
    assert "<html" in (kernel_environment / "report.html").read_text()
    assert (kernel_environment / "drive" / "notebook-mine" / "checkpoints" / "best").is_dir()


@pytest.mark.extras
def test_your_data_goes_from_tables_to_recommendations(kernel_environment: Path) -> None:
    polars = pytest.importorskip("polars", reason="the extra `tables` is not installed")
    pytest.importorskip("PIL", reason="Pillow is not installed")
    run("your_data.ipynb")
    lists = polars.read_parquet(kernel_environment / "recommendations.parquet")
    assert lists.columns == ["user", "rank", "item", "score"]
    assert lists.height > 0
    assert "<html" in (kernel_environment / "report.html").read_text()
