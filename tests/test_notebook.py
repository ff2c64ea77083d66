"""The notebook runs as it stands, on the CPU."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / "colab_tpu.ipynb", as_version=4)


def test_notebook_is_short_and_defines_nothing(notebook: nbformat.NotebookNode) -> None:
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert len(notebook.cells) <= 14
    assert not any(line.startswith(("def ", "class ")) for s in sources for line in s.splitlines())
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_notebook_trains_plots_restores_and_evaluates(
    notebook: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPOCHS", "2")
    monkeypatch.setenv("RUNS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("XLA_FLAGS", "")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    printed = "".join(output.get("text", "") for output in outputs)
    assert "restored" in printed
    assert (tmp_path / "notebook-mine" / "result.json").is_file()
