"""The example images of a scan with their maps, as a contact sheet for a paper; the page draws them on canvas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from vitreg.records import Example
from vitreg.report.paper import INK, NotebookFigure, NotMeasuredError, plain_log, writable
from vitreg.report.scan.payload import Scale
from vitreg.report.words import count


def figure(examples: Sequence[Example]) -> Figure:
    """Contact sheet: per image the picture with its outliers outlined, norms, attention of CLS and registers, PCA.

    Norms share one logarithmic colour scale; each attention map runs from 0 to its own maximum.

    Raises:
        NotMeasuredError: without examples.
    """
    if not examples:
        raise NotMeasuredError("the scan kept no example images")
    ordered = sorted(examples, key=lambda e: -int(e.outliers.sum()))
    cls = any(e.cls_attention is not None for e in ordered)
    registers = max(len(e.register_attention) for e in ordered)
    titles = ["image", "norm", *(["CLS"] if cls else []), *(f"reg {i + 1}" for i in range(registers)), "PCA"]
    rows = len(ordered)
    figure = NotebookFigure(figsize=(1.55 * len(titles) + 0.9, 1.66 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, len(titles), squeeze=False)
    scale = Scale.of(ordered)
    colours = LogNorm(scale.low, scale.high)
    for line, example in zip(grid, ordered, strict=True):
        maps = [example.cls_attention] if cls else []
        maps += [
            example.register_attention[i] if i < len(example.register_attention) else None for i in range(registers)
        ]
        height, width = example.image.shape[:2]
        rows_, cols = example.norms.shape
        line[0].imshow(example.image)
        _outline(line[0], example.outliers, width / cols, height / rows_)
        line[1].imshow(_on_paper(example.norms, scale.low), cmap="magma", norm=colours, aspect="auto")
        for axes, values in zip(line[2:-1], maps, strict=True):
            if values is None:
                axes.set_visible(False)
            else:
                values = _on_paper(values, 0.0)
                axes.imshow(values, cmap="viridis", vmin=0, vmax=float(values.max()) or 1.0, aspect="auto")
        line[-1].imshow(np.clip(np.nan_to_num(example.pca), 0, 1), aspect="auto")
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_box_aspect(height / width)
        line[0].set_ylabel(count(int(example.outliers.sum()), "outlier"), fontsize=7, color=INK)
        title = line[0].set_title(writable(example.name), fontsize=6.5, loc="left", color=INK, pad=2)
        title.set_parse_math(False)  # a dollar sign in a file name is a dollar sign
    for axes, title in zip(grid[-1], titles, strict=True):
        axes.set_xlabel(title, fontsize=8)
    bar = figure.colorbar(ScalarMappable(colours, "magma"), ax=grid[:, -1].tolist(), fraction=0.08, aspect=14 * rows)
    bar.set_label("norm", fontsize=7)
    plain_log(bar.ax.yaxis)
    bar.ax.tick_params(labelsize=6, which="both")
    return figure


def _on_paper(values: np.ndarray, missing: float) -> np.ndarray:
    """Replace NaN and infinite values of a map by `missing`."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(values), values, missing)


def _outline(axes: Axes, outliers: np.ndarray, wide: float, tall: float) -> None:
    for row, col in np.argwhere(outliers):
        x, y = col * wide - 0.5, row * tall - 0.5
        axes.plot([x, x + wide, x + wide, x, x], [y, y, y + tall, y + tall, y], color="#7fe9ff", lw=0.7)
