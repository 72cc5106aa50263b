"""The cells of a notebook, run as a notebook runs them."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[4] / "docs"


def shown_by(notebook: Path) -> list[Any]:
    """Run the code cells of a notebook; return the values of the expressions that they end with."""
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    shown = []
    for number, cell in enumerate(cells):
        where, lines = f"{notebook.name}, cell {number}", ast.parse("".join(cell["source"])).body
        last = lines.pop() if isinstance(lines[-1], ast.Expr) else None
        exec(compile(ast.Module(lines, []), where, "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), where, "eval"), names))
    return shown


def drawn(value: Any) -> str | bytes:
    """Return what a notebook shows of a value: a picture, or else a page."""
    as_picture = getattr(value, "_repr_png_", None)
    return as_picture() if as_picture else value._repr_html_()
