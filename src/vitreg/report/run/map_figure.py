"""Norm maps of probe images, before, at and after the onset, of several runs on one colour scale: a matplotlib ``Figure``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, SubFigure

from vitreg.records import RunRecord, Watch
from vitreg.report.paper import INK, NotebookFigure, NotMeasuredError, plain_log, writable
from vitreg.report.run.maps import drawable, over_median, peak_block, shown
from vitreg.report.words import number

SIDE, TITLE, WORDS, KEY = 1.1, 0.35, 1.7, 0.9  # inches: of a map, above a run, beside its rows, of the key of colours
COLOURS = "magma"


@dataclass(frozen=True)
class Kept:
    """The maps of one run after one block, over the median of their image."""

    name: str
    block: int
    looks: list[tuple[str, Float64[np.ndarray, "images P"]]]

    @classmethod
    def of(cls, name: str, watch: Watch) -> Kept:
        """Read the looks that are shown."""
        block = peak_block(watch)
        return cls(name, block, [(words, over_median(moment.maps[block])) for words, moment in shown(watch)])


def maps_figure(runs: Sequence[RunRecord]) -> Figure:
    """Draw a row of images for each look that is shown; colours are logarithmic, from the median of an image on.

    Raises:
        NotMeasuredError: if no run kept maps of a square grid.
    """
    kept = [Kept.of(run.name, run.watched) for run in runs if run.watched is not None and drawable(run.watched)]
    if not kept:
        raise NotMeasuredError("no run kept norm maps")
    every = [maps for run in kept for _, maps in run.looks]
    top, columns = max(2.0, *(float(maps.max()) for maps in every)), max(map(len, every))
    heights = [TITLE + SIDE * len(run.looks) for run in kept]
    figure = NotebookFigure(figsize=(WORDS + SIDE * columns + KEY, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    colours = LogNorm(1.0, top, clip=True)
    parts = figure.subfigures(len(kept), squeeze=False, height_ratios=heights)[:, 0]
    grids = [_draw(part, run, columns, colours) for part, run in zip(parts, kept, strict=True)]
    for part, grid in zip(parts, grids, strict=True):
        bar = part.colorbar(ScalarMappable(colours, COLOURS), ax=grid.ravel().tolist(), shrink=0.9, aspect=30)
        bar.set_label("norm / median of the image", fontsize=7)
        plain_log(bar.ax.yaxis)
        bar.ax.tick_params(labelsize=7)
    return figure


def _draw(part: SubFigure, run: Kept, columns: int, colours: LogNorm) -> np.ndarray:
    """Draw one run, and return its axes."""
    title = part.suptitle(f"{writable(run.name)}, after block {run.block}", fontsize=9, x=0.01, ha="left", color=INK)
    title.set_parse_math(False)
    grid = part.subplots(len(run.looks), columns, squeeze=False)
    for line, (words, maps) in zip(grid, run.looks, strict=True):
        for axes in line[len(maps) :]:
            axes.set_visible(False)
        for axes, ratio in zip(line, maps, strict=False):
            _map(axes, ratio, colours)
        said = words.replace(", ", "\n", 1) + f"\nlargest: {number(float(maps.max()))}"
        line[0].set_ylabel(said, fontsize=8, color=INK, rotation=0, ha="right", va="center")
    return grid


def _map(axes: Axes, ratio: Float64[np.ndarray, " P"], colours: LogNorm) -> None:
    axes.imshow(ratio.reshape(math.isqrt(len(ratio)), -1), cmap=COLOURS, norm=colours)
    axes.set_xticks([])
    axes.set_yticks([])
