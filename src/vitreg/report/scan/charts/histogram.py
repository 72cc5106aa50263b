"""Norms of the patch tokens at one block (Fig. 3): the chart of the page, and the figure for a paper."""

from __future__ import annotations

import math

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from vitreg.records import LayerRecord, ScanResult
from vitreg.report.paper import OUTLIER, PATCH, SHARES, NotMeasuredError, axes_of, plain_log
from vitreg.report.ranges import positive_span, usable
from vitreg.report.svg import Kind, framed, labelled
from vitreg.report.words import PERCENT, countable, number, percent, shown_layer, trimmed

COUNT_SCALES: tuple[Kind, ...] = ("log", "sqrt", "linear")


_SCALE_WORDS = {"log": "log scale", "sqrt": "square-root scale", "linear": "linear scale"}


Ranges = tuple[tuple[float, float], tuple[float, float]]  # of both axes


def ranges_of(layer: LayerRecord) -> Ranges | None:
    """The range of norms and of positive shares in a layer's histogram; None if nothing was counted."""
    if not countable(layer.histogram):
        return None
    data = trimmed(layer.histogram)
    shares = [c / sum(data.counts) for c in data.counts if c > 0]
    return positive_span([*data.edges, _cut(layer)]) or (0.0, 0.0), (min(shares), max(shares))


def svg(
    layer: LayerRecord, width: float, height: float, scale: Kind = "log", ranges: Ranges | None = None
) -> Markup | None:
    """Norms at one layer on a log axis with the threshold; the share axis is log, square root or linear (Fig. 3).

    Args:
        layer: the record of a block.
        width, height: in pixels.
        scale: scale of the share axis.
        ranges: as `ranges_of`, to share axes between charts; by default this layer's ranges.
    """
    ranges = ranges or ranges_of(layer)
    if not countable(layer.histogram) or ranges is None:
        return None
    data, cut = trimmed(layer.histogram), _cut(layer)
    edges, total = data.edges, sum(data.counts)
    shares = [c / total for c in data.counts]
    bounds, (smallest, largest) = ranges
    low = smallest / 3 if scale == "log" else 0.0
    plot = framed(width, height, bounds, (low * 100, largest * 108), ("log", scale), 46.0)
    ticks = labelled(plot.y.ticks(), PERCENT)
    if scale == "sqrt":
        ticks = [(v, f"{v:g}{PERCENT}") for v in (0, 0.1, 0.5, 2, 5, 10, 20, 40, 80) if v <= plot.y.high]
    plot.frame(
        "norm (L2, log scale)",
        f"share of patch tokens per bin ({_SCALE_WORDS[scale]})",
        labelled(plot.x.ticks(6)),
        ticks,
    )
    for a, b, share in zip(edges, edges[1:], shares, strict=False):
        if share > 0:
            for left, right, outlier in _split(a, b, cut, layer.side):
                x, top = plot.x(left), plot.y(share * 100)
                wide = max(plot.x(right) - x - 0.6, 0.6)
                plot.add(
                    "rect",
                    x=x,
                    y=top,
                    width=wide,
                    height=max(plot.y.start - top, 1.0),
                    class_="bar-outlier" if outlier else "bar",
                )
        plot.hit(a, b, f"norm {number(a)} to {number(b)}\n{percent(share)} of tokens\n{share * total:,.0f} tokens")
    alt = f"Histogram of patch-token norms at block {layer.index}, from {number(edges[0])} to {number(edges[-1])}"
    alt += f", median {number(layer.median)}."
    if cut is not None:
        x = plot.x(cut)
        plot.add("line", x1=x, x2=x, y1=28.0, y2=plot.y.start, class_="line-threshold")
        side = "below" if layer.side == "low" else "above"
        words = f"{percent(layer.outlier_fraction)} {side} {number(cut)}"
        near_left = x < width / 2
        plot.text(x + (6 if near_left else -6), 37, words, "mark-label strong", "start" if near_left else "end")
        alt += f" {percent(layer.outlier_fraction)} of the tokens lie {side} the threshold {number(cut)}."
    else:
        alt += " No threshold separates a group of outliers."
    return plot.render(alt + " Arrow keys read the bins.", f"histogram {scale}")


def _cut(layer: LayerRecord) -> float | None:
    return layer.threshold if layer.threshold is not None and math.isfinite(layer.threshold) else None


def _split(a: float, b: float, cut: float | None, side: str | None) -> list[tuple[float, float, bool]]:
    """Cut one bin at the threshold: (from, to, outlier)."""
    if cut is None:
        return [(a, b, False)]
    low = side == "low"
    if b <= cut:
        return [(a, b, low)]
    return [(a, b, not low)] if a >= cut else [(a, cut, low), (cut, b, not low)]


def figure(result: ScanResult, block: int | None = None) -> Figure:
    """Histogram of the patch norms at the peak layer, both axes logarithmic, with the threshold (the paper's Fig. 3).

    Without outliers it shows the layer whose largest norms come nearest to standing out.

    Args:
        block: shown in its place; -1 is the last.
    Raises:
        NotMeasuredError: without layers or counts.
    """
    layer = shown_layer(result) if block is None else result.layers[block]
    if layer is None or not countable(layer.histogram):
        raise NotMeasuredError("the scan holds no histogram of norms")
    data = trimmed(layer.histogram, margin=0)
    span = positive_span([*data.edges, layer.threshold], room=1.02)
    if span is None:
        raise NotMeasuredError("the histogram holds no norm above zero")
    edges, shares = np.clip(data.edges, *span), np.asarray(data.counts) / sum(data.counts)
    figure, axes = axes_of(7.5, 3.6)
    axes.stairs(shares, edges, fill=True, color=PATCH, label="patch tokens")
    if layer.threshold is not None and span[0] <= layer.threshold <= span[1]:
        low = layer.side == "low"
        side, other = (edges[0], layer.threshold) if low else (layer.threshold, edges[-1])
        beyond = axes.stairs(shares, edges, fill=True, color=OUTLIER, label="outliers")
        beyond.set_clip_path(axes.axvspan(side, max(other, side), color="none"))
        axes.axvline(layer.threshold, color=OUTLIER, ls="--", lw=1.4)
        words = f"{percent(layer.outlier_fraction)} {'below' if low else 'above'} {number(layer.threshold)}"
        axes.annotate(words, (layer.threshold, 1.02), xycoords=("data", "axes fraction"), color=OUTLIER, ha="center")
    axes.set_xlim(*span)  # before the scale, which else looks for limits in norms that it cannot show
    axes.set_ylim(*usable(shares[shares > 0].min() / 2, shares.max() * 1.4, log=True))
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_log(axes.xaxis)
    axes.yaxis.set_major_formatter(SHARES)
    axes.set_xlabel(f"norm (L2) at block {layer.index}")
    axes.set_ylabel("share of tokens per bin")
    axes.legend(frameon=False, fontsize=8)
    return figure
