"""The notebook in examples/ runs from its first cell to its last, up to a push to a Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.documents.pages import ROOT
from tests.hub.clients import knowing
from tests.hub.server import running

NOTEBOOK = ROOT / "examples/from_data_to_cascade.ipynb"
SECONDS = 300  # of one cell, on a machine that has more to do
SHOWN = (
    "SweepResult(4 of 4 runs finished", "CookResult(uniform of 4 of 4 in soups/uniform; greedy of ", "Soup(greedy of ",
    "Score(value=", "Leaderboard(", "Comparisons(", "SearchResult(", "Frontier(", "Picture(", "Pushed(Pushed ",
)  # fmt: skip


def shown(notebook: Any, kind: str = "text/plain") -> list[str]:
    """What the cells show, in order."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def test_it_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in cells if cell.outputs or cell.execution_count is not None] == []


@pytest.mark.slow
def test_it_runs_from_data_to_a_pushed_cascade(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    (tmp_path / "work").mkdir()
    client = NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path / "work")}})
    with running() as hub:
        client.execute(env=knowing(hub, tmp_path / "home", "hf_write") | {"PUSH_TO": "me/digits-cascade"})
    texts, at = shown(notebook), 0
    for start in SHOWN:
        at = next((i for i in range(at, len(texts)) if texts[i].startswith(start)), len(texts))
        assert at < len(texts), f"no cell shows {start}: {[text[:80] for text in texts]}"
    assert max(map(len, texts)) < 400
    assert shown(notebook, "image/png")
    assert sum("<img" in page and "<table" in page for page in shown(notebook, "text/html")) == 4
    assert (tmp_path / "work/report.html").is_file()
    assert {name for kind, name in hub.repos if kind == "models"} == {"me/digits-cascade"}
