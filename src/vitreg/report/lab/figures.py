"""The figures of a design: effects with their intervals, and the courses of all cells on the same axes. PNG, SVG and PDF."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitreg.records.lab import DesignRun, Effect, Estimate, LabReport, Measure
from vitreg.report.attempts import Attempts
from vitreg.report.lab.tables import TITLES
from vitreg.report.words import middle
from vitreg.writing.files import output_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES, FORMATS = "figures", ("png", "svg", "pdf")
NAMES = ("effects", "courses-norms", "courses-error")
ROW, ROUND, WIDE, LETTERS = 0.2, 0.9, 3.1, 46
COLUMNS, CELL = 5, (2.1, 1.5)  # inches of a panel
BOUNDS = {"ratio": 5.0, "error": 0.01}
DASHED = {"ratio": "5, above which artifacts lie", "error": "0.01, below which the task is solved"}
Course = Literal["ratio", "error"]


def draw_figures(result: LabReport, folder: Path, attempts: Attempts) -> None:
    """Write every figure that the runs so far allow, in three formats."""
    drawn: dict[str, Callable[[], Figure]] = {
        "effects": lambda: effects_figure(result),
        "courses-norms": lambda: courses_figure(result, "ratio"), "courses-error": lambda: courses_figure(result, "error"),
    }  # fmt: skip
    for name, draw in drawn.items():
        attempts(f"{FIGURES}/{name}", lambda draw=draw, name=name: _save(draw, folder, name))


def _save(draw: Callable[[], Figure], folder: Path, name: str) -> None:
    from vitreg.report.paper import NotMeasuredError, save_figure

    try:
        figure = draw()
    except NotMeasuredError:  # no two cells can be compared so far
        return
    output_folder(folder)
    for kind in FORMATS:
        save_figure(figure, folder / f"{name}.{kind}")


def effects_figure(result: LabReport) -> Figure:
    """Draw each change with its 95 % intervals, a column for each measure; hollow and grey: undecided.

    A change at several levels of other factors stands with its average over these, and one of several blocks as in the first.

    Raises:
        NotMeasuredError: if there is none.
    """
    from vitreg.report.paper import NotebookFigure, NotMeasuredError

    rows = [each for each in _main(result.effects) if each.measures]
    measures: list[Measure] = [measure for measure in TITLES if any(measure in each.measures for each in rows)]
    if not measures:
        raise NotMeasuredError("no two cells can be compared")
    figure = NotebookFigure(figsize=(WIDE * (len(measures) + 1), ROUND + ROW * len(rows)), layout="constrained")
    places = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, measure in zip(places, measures, strict=True):
        _forest(axes, measure, [each.measures.get(measure) for each in rows])
    places[0].set_yticks(range(len(rows)), [middle(_name(each, result), LETTERS) for each in rows])
    for text in places[0].get_yticklabels():
        text.set_parse_math(False)
    places[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def _main(effects: Sequence[Effect]) -> list[Effect]:
    """Return the rows of each level of the block that has it first: their average, or all where there is none."""
    found: dict[tuple[object, ...], list[Effect]] = {}
    for each in effects:
        if not each.interaction:
            found.setdefault((each.factor, each.level, each.against, each.after), []).append(each)
    first = [[each for each in rows if each.block == rows[0].block] for rows in found.values()]
    return [each for rows in first for each in ([row for row in rows if row.average] or rows)]


def _name(each: Effect, result: LabReport) -> str:
    after = "" if each.after is None else f", after {result.cells[each.after].name}"
    return f"{each.factor} {each.level} against {each.against}{after}"


def _forest(axes: Axes, measure: Measure, found: Sequence[Estimate | None]) -> None:
    from vitreg.report.paper import INK, PATCH, plain_log
    from vitreg.report.ranges import drawable

    same = 0.0 if measure == "solved" else 1.0
    axes.axvline(same, color="0.6", lw=0.8, zorder=0)
    for row, each in enumerate(found):
        if each is None:
            continue
        colour = PATCH if each.decided else "0.55"
        value, low, high = drawable([each.value, each.low, each.high])
        axes.hlines(row, low, high, color=colour, lw=1.4)
        axes.plot(value, row, marker="o", ms=4, color=colour, mfc=colour if each.decided else "white", ls="none")
    if measure != "solved":
        axes.set_xscale("log")
        plain_log(axes.xaxis)
    axes.set_title(TITLES[measure], fontsize=8, loc="left", color=INK)
    axes.set_xlabel("steps more" if measure == "solved" else "times as much", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
    axes.grid(axis="y", color="0.93", lw=0.6)
    axes.set_axisbelow(True)


def courses_figure(result: LabReport, of: Course) -> Figure:
    """Draw a line for each run, a panel for each cell, all on the same logarithmic axes.

    Raises:
        NotMeasuredError: if no run has a course.
    """
    from vitreg.report.paper import INK, OUTLIER, PATCH, NotebookFigure, NotMeasuredError, plain_log

    runs = [
        [run for run in result.runs if run.cell == place and _points(run, of)] for place in range(len(result.cells))
    ]
    shown = [place for place, own in enumerate(runs) if own]
    if not shown:
        raise NotMeasuredError("no run has a course")
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    size = (0.6 + CELL[0] * columns, 0.6 + CELL[1] * rows)
    figure = NotebookFigure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, place in zip(grid, shown, strict=False):
        for run in runs[place]:
            axes.plot(*zip(*_points(run, of), strict=True), color=PATCH if of == "ratio" else INK, lw=0.8, alpha=0.7)
        axes.axhline(BOUNDS[of], color=OUTLIER, lw=0.7, ls="--")
        axes.set_title(middle(result.cells[place].name, 40), fontsize=6.5, loc="left", color=INK).set_parse_math(False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=6)
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    grid[0].set_yscale("log")
    plain_log(grid[0].yaxis)
    figure.supylabel("largest norm / median" if of == "ratio" else "error of what is asked", fontsize=8)
    figure.supxlabel(f"step (dashed: {DASHED[of]})", fontsize=8)
    return figure


def _points(run: DesignRun, of: Course) -> list[tuple[int, float]]:
    if run.course is None:
        return []
    steps, values = (run.course.looks, run.course.ratio) if of == "ratio" else (run.course.evaluated, run.course.error)
    return [
        (step, min(value, 1e100)) for step, value in zip(steps, values, strict=True) if value and math.isfinite(value)
    ]
