"""The notebook on looking runs from top to bottom, and every cell that ends with a value shows it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[4] / "docs" / "looking.ipynb"


def shown_by(cells: list[str]) -> list[object]:
    """Run cells as a notebook does; return the values of the expressions that they end with."""
    names: dict[str, object] = {}
    shown = []
    for number, text in enumerate(cells):
        where, lines = f"{NOTEBOOK.name}, cell {number}", ast.parse(text).body
        last = lines.pop() if isinstance(lines[-1], ast.Expr) else None
        exec(compile(ast.Module(lines, []), where, "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), where, "eval"), names))
    return shown


@pytest.mark.slow
@pytest.mark.usefixtures("planted_once", "few_resamples")
def test_every_cell_of_the_notebook_runs_and_shows_something() -> None:
    cells = [
        "".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"
    ]
    shown = shown_by(cells)
    kinds = [type(each).__name__ for each in shown]
    assert [kind for kind in kinds if kind not in ("DataFrame", "NotebookFigure")] == [
        "ScanResult", "Look", "MapsResult", "Exploration",
    ]  # fmt: skip
    assert kinds.count("NotebookFigure") == kinds.count("DataFrame") == 2
    for each in shown:
        as_picture = getattr(each, "_repr_png_", None)
        assert len(as_picture() if as_picture else each._repr_html_()) > 500  # type: ignore[attr-defined]
