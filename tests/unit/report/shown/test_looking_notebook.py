"""The notebook on looking runs from top to bottom, and every cell that ends with a value shows it."""

from __future__ import annotations

import pytest
from tests.unit.report.shown.notebook_cells import DOCS, drawn, shown_by


@pytest.mark.slow
@pytest.mark.usefixtures("planted_once", "few_resamples")
def test_every_cell_of_the_notebook_runs_and_shows_something() -> None:
    shown = shown_by(DOCS / "looking.ipynb")
    kinds = [type(each).__name__ for each in shown]
    assert [kind for kind in kinds if kind not in ("DataFrame", "NotebookFigure")] == [
        "ScanResult", "Look", "MapsResult", "Exploration",
    ]  # fmt: skip
    assert kinds.count("NotebookFigure") == kinds.count("DataFrame") == 2
    assert all(len(drawn(each)) > 500 for each in shown)
