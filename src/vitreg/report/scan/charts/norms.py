"""Norms of the patch tokens along the depth (Fig. 4a): the chart of the page, and the figure for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from vitreg.records import LayerRecord, ScanResult
from vitreg.report.paper import CLS, OUTLIER, PATCH, REGISTER, NotMeasuredError, axes_of, mark_blocks, plain_log
from vitreg.report.ranges import drawable, positive_span
from vitreg.report.svg import LEFT, Plot, framed, labelled
from vitreg.report.words import finite, number, percent, shown_layer, times


def norm_span(result: ScanResult) -> tuple[float, float] | None:
    """The range of norms that the chart of a scan needs; None if it has no positive norm."""
    values = [
        v
        for la in result.layers
        for v in (la.min, la.median, la.p99, la.max, la.threshold, la.cls_norm, *la.register_norms)
    ]
    return positive_span(values, room=1.2)


def block_span(result: ScanResult) -> tuple[int, int] | None:
    """The first and the last block that the chart of a scan shows; None without layers."""
    shown = [la.index for la in result.layers]
    return (min(shown), max(shown)) if shown else None


def svg(
    result: ScanResult,
    width: float,
    height: float,
    span: tuple[float, float] | None = None,
    blocks: tuple[int, int] | None = None,
) -> Markup | None:
    """Patch norms along the depth on a log axis, with CLS and registers as their own lines (Fig. 4a).

    Args:
        result: the record of the scan.
        width, height: in pixels.
        span: range of the norm axis, to share it between charts; by default this scan's range.
        blocks: first and last block of the axis, likewise.
    """
    layers = [la for la in result.layers if len(finite([la.min, la.median, la.p99, la.max])) == 4]
    span, blocks = span or norm_span(result), blocks or block_span(result)
    if not layers or span is None or blocks is None:
        return None
    registers = max(len(layer.register_norms) for layer in layers)
    plot = framed(width, height, (blocks[0] - 0.5, blocks[1] + 0.5), span, ("linear", "log"), 58.0)
    plot.frame("block", "norm (L2, log scale)", block_ticks(*blocks, width), labelled(plot.y.ticks()))
    for low, class_ in ((lambda la: la.min, "band-all"), (lambda la: la.p99, "band-top")):
        # The band of a single block is a bar.
        wide = [
            (x, la) for la in layers for x in ((la.index - 0.2, la.index + 0.2) if len(layers) == 1 else (la.index,))
        ]
        plot.band([x for x, _ in wide], [low(la) for _, la in wide], [la.max for _, la in wide], class_)
    _marked_layers(plot, result)
    for place in range(registers):
        plot.line(
            [(la.index, la.register_norms[place]) for la in layers if place < len(la.register_norms)], "line-register"
        )
    plot.line([(la.index, la.cls_norm) for la in layers if la.cls_norm is not None], "line-cls")
    plot.line([(la.index, la.p99) for la in layers], "line-p99")
    plot.line([(la.index, la.max) for la in layers], "line-max")
    plot.line([(la.index, la.followed.median) for la in layers if la.followed is not None], "line-followed")
    plot.line([(la.index, la.median) for la in layers], "line-median")
    for layer in layers:
        plot.add("circle", cx=plot.x(layer.index), cy=plot.y(layer.median), r=2.4, class_="dot-median")
        if layer.threshold is not None:
            plot.line([(layer.index - 0.42, layer.threshold), (layer.index + 0.42, layer.threshold)], "line-cut")
        plot.hit(layer.index - 0.5, layer.index + 0.5, _layer_tip(layer))
    shown = shown_layer(result)
    assert shown is not None  # there are layers
    first, last = layers[0], layers[-1]
    alt = (
        f"Norms of patch tokens along {len(layers)} blocks. Median {number(first.median)} in block {first.index}, "
        f"{number(last.median)} in block {last.index}. At block {shown.index}: median {number(shown.median)}, "
        f"99th percentile {number(shown.p99)}, maximum {number(shown.max)}. Arrow keys read the blocks."
    )
    return plot.render(alt, "norms")


def block_ticks(first: int, last: int, width: float) -> list[tuple[float, str]]:
    """Return ticks at whole blocks, as many as fit."""
    every = max(1, -(-(last - first + 1) // max(int((width - LEFT) // 30), 1)))
    every = next((step for step in (1, 2, 4, 5, 8, 10, 20) if step >= every), every)
    return [(block, str(block)) for block in range(first, last + 1) if block % every == 0]


def _marked_layers(plot: Plot, result: ScanResult) -> None:
    """Label the blocks where outliers first appear and where they peak."""
    first, peak = result.verdict.first_layer, result.verdict.peak_layer
    scanned = {layer.index for layer in result.layers}
    if first is not None and first == peak:
        marks = [(first, "first and peak", 32.0)]
    else:
        marks = [(first, "first", 32.0), (peak, "peak", 46.0)]
    for index, words, at in marks:
        if index is None or index not in scanned:
            continue
        x = plot.x(index)
        plot.add("line", x1=x, x2=x, y1=at + 5, y2=plot.y.start, class_=f"mark {words.split()[-1]}")
        anchor = "start" if x < 110 else "end" if x > plot.width - 110 else "middle"
        plot.text(x, at, f"{words}: block {index}", "mark-label", anchor)


def _layer_tip(layer: LayerRecord) -> str:
    lines = [
        f"block {layer.index}",
        f"max {number(layer.max)} · p99 {number(layer.p99)}",
        f"median {number(layer.median)} · min {number(layer.min)}",
    ]
    if layer.threshold is None:  # of a group that is not established the record keeps no numbers by block
        lines.append("no established outliers")
    else:
        lines += [f"threshold {number(layer.threshold)}", f"outliers {percent(layer.outlier_fraction)}"]
    if layer.followed is not None:
        lines.append(f"outliers of the peak {number(layer.followed.median)}, {times(layer.followed.ratio)}")
    if layer.cls_norm is not None:
        lines.append(f"CLS {number(layer.cls_norm)}")
    if layer.register_norms:
        lines.append("registers " + ", ".join(number(v) for v in layer.register_norms))
    return "\n".join(lines)


def figure(result: ScanResult) -> Figure:
    """Patch norms along the depth on a log axis, with CLS and registers as their own lines (the paper's Fig. 4a).

    Raises:
        NotMeasuredError: without layers.
    """
    layers, span = result.layers, norm_span(result)
    if not layers or span is None:
        raise NotMeasuredError("the scan holds no norms above zero")
    figure, axes = axes_of(7.5, 4)
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
    axes.set_ylim(*span)
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    mark_blocks(axes, xs)
    axes.set_ylabel("norm (L2)")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def _further_lines(layers: Sequence[LayerRecord]) -> list[tuple[list[float | None], dict[str, Any]]]:
    """Thresholds, followed outliers, CLS and registers: their values by block, and their line styles."""
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
