"""The figure of every result that has one. Results of numbers are dots with their intervals, a panel for what has one axis."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import TYPE_CHECKING

from vitreg.errors import UserError, unknown
from vitreg.quantities import count
from vitreg.records import Curves, Record, ScanResult
from vitreg.records.lab import LabReport
from vitreg.records.reproduction import Reproduction
from vitreg.records.zoo import Board
from vitreg.report.evaluation.words import title
from vitreg.report.repairs.words import label
from vitreg.report.shown.rows import box_counts
from vitreg.report.words import middle
from vitreg.results import DiscoverResult, EvalResult, Evaluations, RepairsResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW, ROUND = 0.27, 0.85  # inches: a row of dots; title and axis of a panel
WIDTH, LETTERS = 7.5, 44
MOST_PICTURES = 12  # of the figure of boxes: one sheet
PIXELS = 100  # of an inch of a picture
OUTCOMES = ("held", "not held", "not testable here")
KINDS = ("curves", "maps")
"""Figures of curves."""


@dataclass(frozen=True)
class Dot:
    """One number with its interval."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    control: bool = False


@dataclass(frozen=True)
class Panel:
    """Numbers on one axis."""

    axis: str
    dots: Sequence[Dot]
    title: str = ""
    start: float | None = None  # a value that the axis reaches
    log: bool = False
    whole: bool = False  # numbers that count something


def figure_of(result: Record, kind: str = "") -> Figure:
    """Return the figure of a result; of curves also their norm maps, by their kind.

    Raises:
        UserError: if what it shows was not measured, and for a kind that there is not.
    """
    from vitreg.report.paper import NotMeasuredError

    if kind not in ("", *KINDS):
        raise unknown("figure", kind, KINDS, "curves")
    try:
        return _maps(result) if isinstance(result, Curves) and kind == "maps" else _figure(result)
    except NotMeasuredError as error:
        raise UserError(f"there is nothing to plot: {error}.") from None


def figure_of_picture(png: bytes) -> Figure:
    """Return a figure that is a picture, pixel by pixel.

    Args:
        png: the bytes of a file.
    """
    import numpy as np
    from PIL import Image

    from vitreg.report.paper import NotebookFigure

    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    height, width = pixels.shape[:2]
    figure = NotebookFigure(figsize=(width / PIXELS, height / PIXELS), dpi=PIXELS)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.imshow(pixels, aspect="auto", interpolation="nearest")
    return figure


@singledispatch
def _figure(result: Record) -> Figure:
    raise TypeError(f"{type(result).__name__} has no figure")


@_figure.register(ScanResult)
def _scan(result: ScanResult) -> Figure:
    from vitreg.report.scan.charts import norms

    return norms.figure(result)


@_figure.register(Curves)
def _curves(result: Curves) -> Figure:
    from vitreg.report.run.figures import curves_figure

    return curves_figure(result.runs)


def _maps(result: Curves) -> Figure:
    from vitreg.report.run.map_figure import maps_figure

    return maps_figure(result.runs)


@_figure.register(EvalResult)
def _evaluation(result: EvalResult) -> Figure:
    name = result.headline
    low, high = result.intervals.get(name, (None, None))
    dots = [Dot(name.replace("_", " "), result.metrics.get(name), low, high)]
    dots += [Dot(each, value, control=True) for each, value in result.controls.items()]
    return panels_of([Panel(_axis(name, result.units.get(name, "")), dots, f"{title(result)}: {result.model.spec}")])


@_figure.register(Evaluations)
def _evaluations(result: Evaluations) -> Figure:
    panels: list[Panel] = []
    for task in dict.fromkeys(pair.task for pair in result.pairs):
        dots: list[Dot] = []
        pairs = [pair for pair in result.pairs if pair.task == task]
        for pair in pairs:
            dots.append(Dot(pair.model, pair.value, *(pair.interval or (None, None))))
            dots += [Dot(f"control: {pair.control[0]}", pair.control[1], control=True)] if pair.control else []
        measured = next((pair for pair in pairs if not pair.failed), pairs[0])
        panels.append(Panel(_axis(measured.metric, measured.unit), dots, title(measured)))
    return panels_of(panels)


@_figure.register(DiscoverResult)
def _discover(result: DiscoverResult) -> Figure:
    """CorLoc beside its controls. Without true boxes the first images with their boxes, or how many images have one."""
    found = result.corloc
    if found is not None:
        controls = [Dot(name, value, control=True) for name, value in result.controls.items()]
        dots = [Dot("found", found.value, found.low, found.high), *controls]
        return panels_of([Panel("CorLoc (%)", dots, result.model.spec)])
    if result.boxed.pictures:
        return _boxes(result)
    dots = [
        Dot(str(row["name"] if row["kind"] == "without" else row["kind"]), row["images"]) for row in box_counts(result)
    ]
    return panels_of([Panel("images", dots, result.model.spec, start=0.0, whole=True)])


def _boxes(result: DiscoverResult) -> Figure:
    from vitreg.report.sheets.boxes import box_sheets
    from vitreg.report.sheets.sheet import draw

    pictures = result.boxed.pictures[:MOST_PICTURES]
    setting = ", ".join(f"{name} {value}" for name, value in result.setting.items())
    which = f"The first {count(len(pictures), 'image')} in their order, not chosen."
    caption = f"{which} No true boxes were given, so nothing says how many fit."
    sheets = box_sheets(pictures, title="Objects found", subtitle=f"{result.model.spec}, {setting}", caption=caption)
    return draw(sheets[0])


@_figure.register(RepairsResult)
def _repairs(result: RepairsResult) -> Figure:
    """The outliers that each repair leaves, a panel for each model; another number where these were not measured."""
    shown = next((each for each in result.columns if each.name == "outliers_peak"), None) or next(
        iter(result.columns), None
    )
    panels: list[Panel] = []
    for model in dict.fromkeys(row.model for row in result.rows):
        dots: list[Dot] = []
        for row in result.rows:
            cell = row.cells.get(shown.name) if shown else None
            if row.model == model and cell is not None:
                dots.append(Dot(label(row), cell.value, cell.low, cell.high, control=bool(row.control)))
        panels.append(Panel(_axis(shown.title, shown.unit) if shown else "", dots, model, start=0.0))
    return panels_of(panels)


@_figure.register(Board)
def _board(result: Board) -> Figure:
    dots: list[Dot] = []
    for row in result.rows:
        share, low, high = (None if each is None else 100 * each for each in (row.share, row.low, row.high))
        dots += [] if row.failed else [Dot(row.model, share, low, high)]
    return panels_of([Panel("outliers (% of the patches)", dots, start=0.0)])


@_figure.register(LabReport)
def _lab_report(result: LabReport) -> Figure:
    """The runs of each cell in one row."""
    dots = [Dot(result.cells[run.cell].name or "base", run.peak_ratio or None) for run in result.runs if not run.failed]
    return panels_of([Panel("largest norm / median, at its peak", dots, result.title, start=1.0, log=True)])


@_figure.register(Reproduction)
def _reproduction(result: Reproduction) -> Figure:
    """How many claims of each experiment hold, do not, and could not be tested."""
    from matplotlib.ticker import MaxNLocator

    from vitreg.report.paper import OUTLIER, PATCH, NotMeasuredError, axes_of

    asked = [each for each in result.experiments if each.claims]
    if not asked:
        raise NotMeasuredError("no claim was asked")
    figure, axes = axes_of(WIDTH, ROUND + ROW * len(asked))
    left = [0] * len(asked)
    for outcome, colour in zip(OUTCOMES, (PATCH, OUTLIER, "0.8"), strict=True):
        numbers = [sum(claim.outcome == outcome for claim in each.claims) for each in asked]
        axes.barh(range(len(asked)), numbers, left=left, color=colour, height=0.7, label=outcome)
        left = [a + b for a, b in zip(left, numbers, strict=True)]
    _name_rows(axes, [f"{each.label}: {each.title}" for each in asked])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("claims, each on one subject", fontsize=8)
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(OUTCOMES))
    return figure


def panels_of(panels: Sequence[Panel]) -> Figure:
    """Draw panels below one another; dots of one name share a row.

    Raises:
        NotMeasuredError: if no dot has a value.
    """
    from vitreg.report.paper import NotebookFigure, NotMeasuredError

    shown = [panel for panel in panels if any(_finite(dot.value) for dot in panel.dots)]
    if not shown:
        raise NotMeasuredError("the record lacks the numbers")
    rows = [list(dict.fromkeys(dot.name for dot in panel.dots if _finite(dot.value))) for panel in shown]
    heights = [ROUND + ROW * len(names) for names in rows]
    figure = NotebookFigure(figsize=(WIDTH, sum(heights)), layout="constrained")
    places = figure.subplots(len(shown), squeeze=False, height_ratios=heights)[:, 0]
    for axes, panel, names in zip(places, shown, rows, strict=True):
        _draw(axes, panel, names)
    return figure


def _draw(axes: Axes, panel: Panel, names: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    from vitreg.report.paper import INK, PATCH, plain_log
    from vitreg.report.ranges import drawable, positive_span

    known = [dot for dot in panel.dots if _finite(dot.value)]
    for dot in known:
        row, colour = names.index(dot.name), "0.55" if dot.control else PATCH
        value, low, high = drawable([dot.value, dot.low, dot.high])
        axes.hlines(row, low, high, color=colour, lw=1.6)
        axes.plot(value, row, marker="D" if dot.control else "o", ms=5, color=colour, ls="none")
    if panel.log and (span := positive_span([panel.start, *(dot.value for dot in known)], room=1.2)):
        axes.set_xlim(*span)
        axes.set_xscale("log")
        plain_log(axes.xaxis)
    elif panel.start is not None:
        axes.axvline(panel.start, color="0.7", lw=0.8, zorder=0)  # the axis reaches there
    if panel.whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name_rows(axes, names)
    axes.set_xlabel(panel.axis, fontsize=8, parse_math=False)
    if panel.title:
        axes.set_title(middle(panel.title, 90), fontsize=9, loc="left", color=INK).set_parse_math(False)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [middle(name, LETTERS) for name in names])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", color="0.9", lw=0.6)
    axes.set_axisbelow(True)


def _axis(name: str, unit: str) -> str:
    words = name.replace("_", " ")
    return f"{words} ({unit})" if unit else words


def _finite(value: float | None) -> bool:
    return value is not None and abs(value) < float("inf")
