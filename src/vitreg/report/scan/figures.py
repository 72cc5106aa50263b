"""The figures of a scan as PNG, each a function from the record to a matplotlib ``Figure``, for papers and notebooks.

Nothing goes through pyplot: no global state, no window, and a notebook shows the returned figure as it is.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vitreg.quantities import short
from vitreg.records import Example, LayerRecord, ScanResult
from vitreg.report.attempts import Attempts
from vitreg.report.ranges import drawable, positive_span, usable
from vitreg.report.scan.charts_depth import norm_span, read_layers
from vitreg.report.scan.payload import Scale
from vitreg.report.words import PERCENT, count, countable, density, middle, number, percent, shown_layer, trimmed
from vitreg.writing.files import output_folder, replacing

DPI = 160
SHARES = FuncFormatter(lambda share, _: f"{short(100 * share)}{PERCENT}")
PATCH, OUTLIER, CLS, REGISTER, INK = "#2a6fb0", "#c4451c", "#8a4fa3", "#0b7f63", "#17202b"


def write_figures(
    result: ScanResult, examples: Sequence[Example], directory: Path, attempts: Attempts | None = None
) -> list[Path]:
    """Write every figure that the record allows to ``directory/figures/`` and return the paths, in the page's order.

    A figure of something that was not measured is left out; one from an earlier scan in the same folder is removed.

    Args:
        attempts: takes account of the figures that fail; the others are written all the same.
    Raises:
        UserError: if the folder cannot be written.
    """
    folder = output_folder(Path(directory) / "figures")
    drawings: list[tuple[str, Callable[[], Figure]]] = [
        ("norms_per_layer", lambda: norms_per_layer(result)),
        ("histogram_peak", lambda: histogram_peak(result)),
        ("positions", lambda: positions(result)),
        ("redundancy", lambda: redundancy(result)),
        ("attention", lambda: attention(result)),
        ("examples", lambda: examples_sheet(examples)),
    ]
    attempts = Attempts() if attempts is None else attempts
    written = []
    for name, draw in drawings:
        path = folder / f"{name}.png"
        if attempts(f"figures/{path.name}", lambda draw=draw, path=path: _saved(draw, path)):
            written.append(path)
        else:
            path.unlink(missing_ok=True)
    return written


def _saved(draw: Callable[[], Figure], path: Path) -> bool:
    """Draw a figure into a file; False if the record does not hold what it draws."""
    try:
        figure = draw()
    except NotMeasuredError:
        return False
    save_figure(figure, path)
    return True


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a whole or not at all.

    Raises:
        UserError: if the folder cannot be written.
    """
    with replacing(path) as draft, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a file name in another script
        figure.savefig(draft, format="png", dpi=DPI)


class NotMeasuredError(ValueError):
    """The record does not hold what a figure draws."""


def norms_per_layer(result: ScanResult) -> Figure:
    """Patch norms along the depth on a log axis, with CLS and registers as their own lines (the paper's Fig. 4a).

    Raises:
        NotMeasuredError: without layers.
    """
    layers, span = result.layers, norm_span(result)
    if not layers or span is None:
        raise NotMeasuredError("the scan holds no norms above zero")
    figure, axes = _figure(7.5, 4)
    xs = [la.index for la in layers]
    low, p99, top = (drawable(getattr(la, name) for la in layers) for name in ("min", "p99", "max"))
    axes.fill_between(
        xs, np.maximum(low, span[0]), top, color=PATCH, alpha=0.16, lw=0, label="all patches, least to most"
    )
    axes.fill_between(xs, p99, top, color=PATCH, alpha=0.35, lw=0, label="99th percentile to max")
    axes.plot(xs, drawable(la.median for la in layers), color=PATCH, marker="o", ms=3, label="median of patches")
    for values, style in _further_lines(layers):
        if any(value is not None for value in values):
            axes.plot(xs, drawable(values), **style)
    first, peak = result.verdict.first_layer, result.verdict.peak_layer
    for index, word, style in ((first, "first", ":"), (peak, "peak", "-")):
        if index is not None and (word == "peak" or index != peak):
            axes.axvline(index, color=OUTLIER, lw=0.9, ls=style)
            words = f" first and peak: {index}" if first == peak else f" {word}: {index}"
            axes.annotate(
                words, (index, 1.02), xycoords=("data", "axes fraction"), color=OUTLIER, ha="center", fontsize=8
            )
    if len(layers) == 1:  # bands have no width here
        axes.vlines(xs, np.maximum(low, span[0]), top, color=PATCH, alpha=0.35, lw=8)
    axes.set_yscale("log")
    axes.set_ylim(*span)
    plain_log(axes.yaxis)
    _blocks(axes, xs)
    axes.set_ylabel("norm (L2)")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def _further_lines(layers: Sequence[LayerRecord]) -> list[tuple[list[float | None], dict[str, Any]]]:
    """Thresholds, followed outliers, CLS and registers: values of each block, and how they are drawn."""
    lines: list[tuple[list[float | None], dict[str, Any]]] = [
        (
            [la.threshold for la in layers],
            {"color": OUTLIER, "ls": "none", "marker": "_", "ms": 11, "mew": 2, "label": "threshold"},
        ),
        (
            [la.followed.median if la.followed else None for la in layers],
            {"color": OUTLIER, "ls": ":", "label": "median of the peak's outliers"},
        ),
        ([la.cls_norm for la in layers], {"color": CLS, "ls": "--", "label": "CLS, mean"}),
    ]
    for place in range(max(len(la.register_norms) for la in layers)):
        values = [la.register_norms[place] if place < len(la.register_norms) else None for la in layers]
        label = None if place else "registers, mean of each"
        lines.append((values, {"color": REGISTER, "ls": ":", "label": label}))
    return lines


def histogram_peak(result: ScanResult) -> Figure:
    """Histogram of the patch norms at the peak layer, both axes logarithmic, with the threshold (the paper's Fig. 3).

    Without outliers it shows the layer whose longest norms come nearest to standing out.

    Raises:
        NotMeasuredError: without layers or counts.
    """
    layer = shown_layer(result)
    if layer is None or not countable(layer.histogram):
        raise NotMeasuredError("the scan holds no histogram of norms")
    data = trimmed(layer.histogram, margin=0)
    span = positive_span([*data.edges, layer.threshold], room=1.02)
    if span is None:
        raise NotMeasuredError("the histogram holds no norm above zero")
    edges, shares = np.clip(data.edges, *span), np.asarray(data.counts) / sum(data.counts)
    figure, axes = _figure(7.5, 3.6)
    axes.stairs(shares, edges, fill=True, color=PATCH, label="patch tokens")
    if layer.threshold is not None and span[0] <= layer.threshold <= span[1]:
        low = layer.side == "low"
        side, other = (edges[0], layer.threshold) if low else (layer.threshold, edges[-1])
        beyond = axes.stairs(shares, edges, fill=True, color=OUTLIER, label="outliers")
        beyond.set_clip_path(axes.axvspan(side, max(other, side), color="none"))
        axes.axvline(layer.threshold, color=OUTLIER, ls="--", lw=1.4)
        words = f"{percent(layer.outlier_fraction)} {'below' if low else 'above'} {number(layer.threshold)}"
        axes.annotate(words, (layer.threshold, 1.02), xycoords=("data", "axes fraction"), color=OUTLIER, ha="center")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*span)
    axes.set_ylim(*usable(shares[shares > 0].min() / 2, shares.max() * 1.4, log=True))
    plain_log(axes.xaxis)
    axes.yaxis.set_major_formatter(SHARES)
    axes.set_xlabel(f"norm (L2) at block {layer.index}")
    axes.set_ylabel("share of tokens per bin")
    axes.legend(frameon=False, fontsize=8)
    return figure


def positions(result: ScanResult) -> Figure:
    """Share of images with an outlier at each place of the grid, at the peak layer (the paper's Fig. 10).

    Raises:
        NotMeasuredError: if positions were not recorded or there are no outliers.
    """
    values = drawable(v for row in result.positions.values for v in row) if result.positions else np.zeros(0)
    if result.positions is None or not (values > 0).any():
        raise NotMeasuredError("the scan recorded no positions of outliers")
    figure, axes = _figure(4.8, 4)
    image = axes.imshow(values.reshape(result.positions.rows, result.positions.cols), cmap="viridis", vmin=0)
    bar = figure.colorbar(image, ax=axes, format=SHARES)
    bar.set_label("images with an outlier here")
    axes.set_xlabel("column")
    axes.set_ylabel("row")
    axes.spines[:].set_visible(False)
    return figure


def redundancy(result: ScanResult) -> Figure:
    """Cosine of patches to their neighbours, two densities (the paper's Fig. 5a).

    Raises:
        NotMeasuredError: if redundancy was not measured or there are no outliers to compare.
    """
    record = result.redundancy
    if record is None or not countable(record.outliers) or not countable(record.others):
        raise NotMeasuredError("the scan holds no two groups of patches to compare")
    figure, axes = _figure(5.5, 3.4)
    for data, mean, colour, label in (
        (record.others, record.other_mean, PATCH, "other patches"),
        (record.outliers, record.outlier_mean, OUTLIER, "outliers"),
    ):
        edges = drawable(data.edges)
        axes.stairs(density(data), edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(density(data), edges, color=colour, label=f"{label}, mean {number(mean)}")
    axes.set_xlabel("cosine similarity to the 4 neighbours, before the first block")
    axes.set_ylabel("density")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def attention(result: ScanResult) -> Figure:
    """Share of the CLS attention that outliers take, against their share of the patches, by the block that reads them.

    Raises:
        NotMeasuredError: if no layer holds the attention that outliers take.
    """
    layers = read_layers(result)
    taken = drawable(la.cls_attention for la in layers)
    if not np.isfinite(taken).any():
        raise NotMeasuredError("the scan holds no attention taken by outliers")
    figure, axes = _figure(5.5, 3.4)
    xs = [la.index + 1 for la in layers]
    axes.plot(xs, taken, color=OUTLIER, marker="o", ms=4, label="share of CLS attention that outliers take")
    shares = drawable(la.outlier_fraction for la in layers)
    axes.plot(xs, shares, color=PATCH, ls="--", marker="s", ms=4, mfc="white", label="their share of the patches")
    axes.yaxis.set_major_formatter(SHARES)
    axes.set_ylim(*usable(0.0, 1.08 * float(np.nanmax([*taken, *shares]))))
    _blocks(axes, xs)
    axes.set_xlabel("block that reads the tokens")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def examples_sheet(examples: Sequence[Example]) -> Figure:
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
    figure = Figure(figsize=(1.55 * len(titles) + 0.9, 1.66 * rows + 0.5), layout="constrained")
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
    """A map without NaN and infinite values, which get the colour of `missing`."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(values), values, missing)


def _outline(axes: Axes, outliers: np.ndarray, wide: float, tall: float) -> None:
    for row, col in np.argwhere(outliers):
        x, y = col * wide - 0.5, row * tall - 0.5
        axes.plot([x, x + wide, x + wide, x, x], [y, y, y + tall, y + tall, y], color="#7fe9ff", lw=0.7)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure in inches with one pair of axes, bound to Agg whatever backend the session uses."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def _blocks(axes: Axes, indices: Sequence[int]) -> None:
    axes.set_xlim(min(indices) - 0.5, max(indices) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("block")


def plain_log(axis: Axis) -> None:
    """Write 300, not 3 x 10^2, and number 2 and 5 between the decades of a short axis."""
    low, high = sorted(axis.get_view_interval())
    between = (2, 5) if high < 1000 * max(low, 1e-12) else ()

    def name(value: float, _: int) -> str:
        return short(value)

    def sometimes(value: float, place: int) -> str:
        digit = round(value / 10 ** math.floor(math.log10(value) + 1e-9)) if value > 0 else 0
        return name(value, place) if digit in between else ""

    axis.set_major_formatter(FuncFormatter(name))
    axis.set_minor_formatter(FuncFormatter(sometimes))
    axis.set_tick_params(which="minor", labelsize=7)


def writable(name: str) -> str:
    """A file name that can be drawn: undecodable bytes and line breaks shown, long ones cut."""
    text = name.encode("utf-8", errors="backslashreplace").decode().replace("\n", " ")
    return middle(text, 26)
