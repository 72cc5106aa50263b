"""The cost of registers and the distorted gradient of the position table, as one PNG from `vitreg eval complexity`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vitreg.report.paper import OUTLIER, PATCH, save_figure
from vitreg.report.ranges import drawable, usable
from vitreg.results import EvalResult, Table
from vitreg.writing.files import output_folder

COST, PROFILES = "Cost of registers", "What each column of it receives"  # how the titles of the tables begin


def write_cost_figure(result: EvalResult, directory: Path) -> Path:
    """Write ``directory/complexity.png`` and return its path.

    Raises:
        UserError: if the folder cannot be written.
        ValueError: if the result is of another task.
    """
    path = output_folder(Path(directory)) / "complexity.png"
    figure = cost_figure(_named(result, COST), _named(result, PROFILES))
    save_figure(figure, path)
    return path


def cost_figure(cost: Table, profiles: Table) -> Figure:
    """Draw the increase over the number of registers (Fig. 12), and the gradient of the position table (Figs. 10, 11).

    Each profile c is drawn as outer(c, c), its map on a square grid, all on one scale.
    """
    figure = Figure(figsize=(11.0, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, 2 + len(profiles.rows))
    axes = figure.add_subplot(grid[0, :2])
    registers = _column(cost, "registers")
    for name, colour in (("% more GMACs", PATCH), ("% more parameters", OUTLIER)):
        axes.plot(
            registers,
            drawable(_column(cost, name)),
            color=colour,
            marker="o",
            ms=4,
            label=name.replace("GMACs", "FLOPs"),
        )
    axes.set_xlabel("registers")
    axes.set_ylabel("% more than without")
    axes.set_title(cost.title.partition(" at ")[2], fontsize=8, loc="left")
    axes.legend(frameon=False, fontsize=8)
    columns = [np.nan_to_num(drawable(float(v or 0) for v in row[1:])) for row in profiles.rows]
    columns = [np.clip(values, -1e150, 1e150) for values in columns]  # products of the largest overflow
    maps = [np.outer(values, values) for values in columns]
    low, high = usable(min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)) if maps else (0.0, 1.0)
    shown = None
    for place, (row, values) in enumerate(zip(profiles.rows, maps, strict=True)):
        panel = figure.add_subplot(grid[0, 2 + place])
        shown = panel.imshow(values, vmin=low, vmax=high, cmap="viridis")
        panel.set_title(str(row[0]).replace(", ", "\n"), fontsize=8)
        panel.set_axis_off()
    if shown is not None:
        figure.colorbar(shown, ax=figure.axes[1:], shrink=0.6, label="gradient")
    return figure


def _named(result: EvalResult, beginning: str) -> Table:
    found = [table for table in result.tables if table.title.startswith(beginning)]
    if not found:
        raise ValueError(f"no table '{beginning} ...' in a result of {result.task}")
    return found[0]


def _column(table: Table, name: str) -> list[float]:
    place = table.columns.index(name)
    return [float(row[place] or 0) for row in table.rows]
