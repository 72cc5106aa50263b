"""Positions of outliers on the grid of patches (Fig. 10): the chart of the page, and the figure for a paper."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from vitreg.records import ScanResult
from vitreg.report.colours import palette
from vitreg.report.paper import SHARES, NotMeasuredError, axes_of
from vitreg.report.ranges import drawable
from vitreg.report.scan.charts.about import About
from vitreg.report.svg import Axis, Plot, element, png
from vitreg.report.words import percent

ABOUT = About(title="Where outliers sit", paper="paper, Fig. 10")


def caption(result: ScanResult) -> str:
    """Say how the chart is read."""
    candidates = " These are candidates that did not hold up." if result.verdict.kind == "none" else ""
    return (
        "Share of images with an outlier at each place of the grid. If outliers are spread out, the content of the image "
        "decides where they sit; if they sit in the same few cells, the position embedding does." + candidates
    )


def missing(result: ScanResult) -> str:
    """Say why there is no chart."""
    if result.verdict.kind == "none" or result.positions:
        return "No outliers, so there are no places to show."
    return "Positions were not recorded."


def drawn(result: ScanResult) -> bool:
    """Whether the record holds a place with outliers."""
    return bool(_values(result).max(initial=0) > 0)


def _values(result: ScanResult) -> np.ndarray:
    grid = result.positions
    return np.nan_to_num(np.asarray(grid.values if grid else [], dtype=np.float64), posinf=0.0, neginf=0.0)


def svg(result: ScanResult, width: float) -> Markup | None:
    """Share of images with an outlier in each cell of the grid (Fig. 10); None without outliers."""
    grid, values = result.positions, _values(result)
    top = float(values.max(initial=0))
    if grid is None or top <= 0:
        return None
    scaled = np.rint(255 * np.clip(values / top, 0, 1)).astype(np.uint8)
    drawn = min(width - 40, 420)
    cell = drawn / max(grid.cols, grid.rows)
    wide, tall = cell * grid.cols, cell * grid.rows
    left, up = 34.0, 22.0
    height = up + tall + 84
    plot = Plot(width, height, Axis(0, grid.cols, left, left + wide), Axis(0, grid.rows, up, up + tall))
    picture = palette("viridis")[scaled]
    plot.add(
        "image",
        href=png(picture),
        x=left,
        y=up,
        width=wide,
        height=tall,
        preserveAspectRatio="none",
        image_rendering="pixelated",
    )
    plot.add("rect", x=left, y=up, width=wide, height=tall, class_="outline")
    for at in _ends(grid.cols):
        plot.text(plot.x(at + 0.5), up + tall + 16, str(at), "tick")
    for at in _ends(grid.rows):
        plot.text(left - 7, plot.y(at + 0.5) + 4, str(at), "tick", "end")
    plot.text(8, 12, "row", "axis-label", "start")
    plot.text(left + wide / 2, up + tall + 32, "column", "axis-label")
    bar = np.tile(palette("viridis")[np.arange(256)], (1, 1, 1))
    plot.add("image", href=png(bar), x=left, y=up + tall + 44, width=wide, height=10.0, preserveAspectRatio="none")
    plot.text(left, up + tall + 70, percent(0.0), "tick", "start")
    plot.text(left + wide, up + tall + 70, percent(top), "tick", "end")
    plot.text(left + wide / 2, up + tall + 70, "images with an outlier here", "axis-label")
    plot.hits.append(
        element(
            "rect", x=left, y=up, width=wide, height=tall, class_="hit cells", data_rows=grid.rows, data_cols=grid.cols
        )
    )
    row, col = np.unravel_index(int(values.argmax()), values.shape)
    alt = f"Heat map, {grid.rows} rows and {grid.cols} columns: share of images with an outlier at each place. "
    alt += f"Highest at row {row}, column {col}: {percent(top)} of the images."
    return plot.render(alt + " Arrow keys read the places.", "positions")


def _ends(size: int) -> list[int]:
    """First, middle and last index of an axis."""
    return sorted({0, size // 2, size - 1})


def figure(result: ScanResult) -> Figure:
    """Share of images with an outlier in each cell of the grid, at the peak layer (the paper's Fig. 10).

    Raises:
        NotMeasuredError: if positions were not recorded or there are no outliers.
    """
    values = drawable(v for row in result.positions.values for v in row) if result.positions else np.zeros(0)
    if result.positions is None or not (values > 0).any():
        raise NotMeasuredError("the scan recorded no positions of outliers")
    figure, axes = axes_of(4.8, 4)
    image = axes.imshow(values.reshape(result.positions.rows, result.positions.cols), cmap="viridis", vmin=0)
    bar = figure.colorbar(image, ax=axes, format=SHARES)
    bar.set_label("images with an outlier here")
    axes.set_xlabel("column")
    axes.set_ylabel("row")
    axes.spines[:].set_visible(False)
    return figure
