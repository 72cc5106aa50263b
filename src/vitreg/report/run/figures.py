"""The curves of training runs as one PNG for papers and notebooks: a matplotlib ``Figure`` from the records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vitreg.records import Curve, RunRecord, Watch
from vitreg.report.paper import CLS, INK, OUTLIER, PATCH, REGISTER, NotebookFigure, plain_log, save_figure, writable
from vitreg.report.ranges import drawable, usable
from vitreg.report.run import birth
from vitreg.report.run.charts import ROWS
from vitreg.report.run.over_steps import (
    best,
    boundaries,
    is_loss,
    named,
    norm_density,
    norm_span,
    outlier_share,
    strengths,
    thinned,
)
from vitreg.writing.files import output_folder

COLOURS, DASHES = (PATCH, OUTLIER, REGISTER, CLS), ("-", "--")
TOKENS = {"outliers": (OUTLIER, "-"), "background": (CLS, "--"), "registers": (REGISTER, "-")}
MOST_NAMED = 8  # blocks that have room in a key
DENSITY = LinearSegmentedColormap.from_list("density", ["white", PATCH])


def write_curves_figure(runs: Sequence[RunRecord], directory: Path) -> Path:
    """Write ``directory/curves.png`` and return its path.

    Raises:
        UserError: if the folder cannot be written.
    """
    path = output_folder(Path(directory)) / "curves.png"
    save_figure(curves_figure(runs), path)
    return path


def curves_figure(runs: Sequence[RunRecord]) -> Figure:
    """Loss, evaluation and outliers of all runs above; below, for each, its norms over training (the paper's Fig. 4b) and
    what happened together: error and norms by block, attention, values."""
    watched = [(run, run.watched) for run in runs if run.watched is not None and norm_span(run.watched.moments)]
    born = [birth.panels(run) for run, _ in watched]
    heights = [3.0, *(tall for panels in born for tall in (2.5, *(1.7 for each in panels if each.name != "error")))]
    figure = NotebookFigure(figsize=(10.5, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(heights), 3, height_ratios=heights)
    _overview(figure, [figure.add_subplot(grid[0, place]) for place in range(3)], runs)
    spans = [norm_span(watch.moments) or (1.0, 10.0) for _, watch in watched]
    span = (min((low for low, _ in spans), default=1.0), max((high for _, high in spans), default=10.0))
    steps = [moment.step for _, each in watched for moment in each.moments]
    row = 1
    for (run, watch), panels in zip(watched, born, strict=True):
        axes = _axes(figure.add_subplot(grid[row, :]))
        _norms(axes, watch, span, legend=row == 1)
        title = f"{writable(run.name)}: {watch.sentence}" if len(runs) > 1 else watch.sentence
        axes.set_title(title, fontsize=9, loc="left", color=INK, wrap=True).set_parse_math(False)
        below = [_axes(figure.add_subplot(grid[row + 1 + i, :])) for i in range(sum(p.name != "error" for p in panels))]
        _birth(below, panels, watch)
        for each in (axes, *below):
            each.set_xlim(*usable(min(steps), max(steps)))
        row += 1 + len(below)
    return figure


def _overview(figure: Figure, places: Sequence[Axes], runs: Sequence[RunRecord]) -> None:
    """Draw loss, evaluation and outliers, a line per run, and the key of the runs."""
    judged = [run.evaluations[0] if run.evaluations else None for run in runs]
    panels: list[tuple[str, list[Curve | None]]] = [
        ("loss", [named(run.training, "loss") for run in runs]),
        (" / ".join(dict.fromkeys(_judged(curve.name) for curve in judged if curve)), judged),
        ("outliers (% of the patches)", [outlier_share(run) for run in runs]),
    ]
    for place, (title, lines) in enumerate(panels):
        axes = _axes(places[place])
        if any(line is not None for line in lines):
            _lines(axes, lines, mark_best=place == 1)
            axes.set_xlim(left=0)
            axes.set_title(title, fontsize=9, loc="left", color=INK)
        else:
            axes.set_visible(False)
    if len(runs) > 1:
        keys = [Line2D([], [], **_style(i), label=writable(run.name)) for i, run in enumerate(runs)]
        figure.legend(handles=keys, loc="outside upper center", ncols=min(len(runs), 4), frameon=False, fontsize=8)


def _judged(name: str) -> str:
    return name.replace("_", " ") if is_loss(name) else f"{name} (%)"


def _birth(rows: Sequence[Axes], panels: Sequence[birth.Panel], watch: Watch) -> None:
    """Draw norms by block with the task's error on a second axis, then attention and values, and mark the onset."""
    error = next((each for each in panels if each.name == "error"), None)
    for axes, panel in zip(rows, (each for each in panels if each.name != "error"), strict=True):
        _scaled(axes, panel)
        for line in panel.lines:
            colour, dash = TOKENS.get(line.kind, (PATCH, "-"))
            style = {"color": colour, "ls": dash, "lw": 1.4, "alpha": line.strength}
            axes.plot(*zip(*line.points, strict=True), marker="o", ms=2, label=line.name, **style)
        axes.set_title(panel.label, fontsize=8, loc="left", color=INK)
        if panel.name != "ratio" or len(panel.lines) <= MOST_NAMED:
            axes.legend(frameon=False, fontsize=7, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=MOST_NAMED)
        if panel.name == "ratio" and error is not None:
            other = axes.twinx()
            _scaled(other, error)
            other.plot(*zip(*error.lines[0].points, strict=True), color=INK, lw=1.2, ls="--")
            other.tick_params(labelsize=8)
            other.spines["top"].set_visible(False)
            other.set_ylabel("error (dashed)" if error.kind == "log" else f"{error.label} (dashed)", fontsize=8)
        _mark(axes, watch)


def _scaled(axes: Axes, panel: birth.Panel) -> None:
    """Set scale and range before anything is drawn: a logarithmic axis that scales itself wants a positive value."""
    axes.set_yscale(panel.kind)
    axes.set_ylim(*panel.span)
    if panel.kind == "log":
        plain_log(axes.yaxis)


def _mark(axes: Axes, watch: Watch) -> None:
    """Draw a line at the onset."""
    looks = [moment.step for moment in watch.moments]
    if watch.onset is not None and watch.onset in looks:
        axes.axvline(boundaries(looks)[looks.index(watch.onset)], color=OUTLIER, lw=1.2)


def _style(place: int) -> dict[str, Any]:
    return {"color": COLOURS[place % len(COLOURS)], "ls": DASHES[place // len(COLOURS) % len(DASHES)], "lw": 1.4}


def _axes(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("step", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    return axes


def _lines(axes: Axes, curves: Sequence[Curve | None], *, mark_best: bool) -> None:
    """A line for each run that has the curve; where values were joined, a band from least to most."""
    for place, curve in enumerate(curves):
        if curve is None:
            continue
        points, style = thinned(curve), _style(place)
        xs = [p.step for p in points]
        low, value, high = (drawable(getattr(p, name) for p in points) for name in ("low", "value", "high"))
        axes.fill_between(xs, low, high, color=style["color"], alpha=0.16, lw=0)
        axes.plot(xs, value, marker="o" if len(xs) <= 32 else None, ms=2.5, **style)
        top = best(curve)
        if mark_best and top:
            axes.plot(top[0], drawable(top[1:]), marker="o", ms=7, mfc="none", mec=style["color"])


def _norms(axes: Axes, watch: Watch, span: tuple[float, float], *, legend: bool) -> None:
    """Density of the norms after the last block over the steps, with median, 99th percentile and maximum."""
    looks = [moment.step for moment in watch.moments]
    grid = strengths(norm_density(watch.moments, span, ROWS))
    rows = np.geomspace(span[1], span[0], ROWS + 1)
    axes.pcolormesh(boundaries(looks), rows, grid, cmap=DENSITY, vmin=0, vmax=1, rasterized=True)
    for name, words, dash in (("max", "maximum", ":"), ("p99", "99th percentile", "--"), ("median", "median", "-")):
        values = drawable(getattr(moment.layers[-1], name) for moment in watch.moments if moment.layers)
        axes.plot(looks[: len(values)], values, color=INK, ls=dash, lw=1.1, label=words)
    _mark(axes, watch)
    axes.set_ylim(*span)
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    axes.set_ylabel("norm (L2) after the last block", fontsize=8)
    if legend:
        axes.legend(frameon=False, fontsize=7, loc="upper left", ncols=3)
