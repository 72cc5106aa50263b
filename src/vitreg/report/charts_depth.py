"""Charts along the depth of the network, as inline SVG from the record alone: norms, and attention taken by outliers.

A chart is None where the scan did not measure what it draws; the page then says so in words.
"""

from __future__ import annotations

import itertools

from markupsafe import Markup

from vitreg.records import LayerRecord, ScanResult

from .ranges import positive_span
from .svg import LEFT, Plot, framed, labelled
from .words import MISSING, finite, number, percent, shown_layer, times


def _layer_ticks(layers: list[LayerRecord], width: float) -> list[tuple[float, str]]:
    every = max(1, -(-len(layers) // max(int((width - LEFT) // 30), 1)))
    every = next((step for step in (1, 2, 4, 5, 8, 10, 20) if step >= every), every)
    return [(layer.index, str(layer.index)) for layer in layers if layer.index % every == 0]


def _marked_layers(plot: Plot, result: ScanResult) -> None:
    """Mark where the outliers first appear and where they peak, in words."""
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


def norm_span(result: ScanResult) -> tuple[float, float] | None:
    """The range of norms that the chart of a scan needs; None if it has no positive norm."""
    values = [
        v
        for la in result.layers
        for v in (la.min, la.median, la.p99, la.max, la.threshold, la.cls_norm, *la.register_norms)
    ]
    return positive_span(values, room=1.2)


def norms_per_layer(
    result: ScanResult, width: float, height: float, span: tuple[float, float] | None = None
) -> Markup | None:
    """Patch norms along the depth on a log axis, with CLS and registers as their own lines (Fig. 4a).

    Args:
        result: the record of the scan.
        width, height: in pixels.
        span: range of the norm axis, to share it between charts; by default what this scan needs.
    """
    layers = [la for la in result.layers if len(finite([la.min, la.median, la.p99, la.max])) == 4]
    span = span or norm_span(result)
    if not layers or span is None:
        return None
    registers = max(len(layer.register_norms) for layer in layers)
    xs = [layer.index for layer in layers]
    plot = framed(width, height, (min(xs) - 0.5, max(xs) + 0.5), span, ("linear", "log"), 58.0)
    plot.frame("block", "norm (L2, log scale)", _layer_ticks(layers, width), labelled(plot.y.ticks()))
    for low, class_ in ((lambda la: la.min, "band-all"), (lambda la: la.p99, "band-top")):
        # A single block has no neighbour to reach to: its band is a bar.
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


def _layer_tip(layer: LayerRecord) -> str:
    lines = [
        f"block {layer.index}",
        f"max {number(layer.max)} · p99 {number(layer.p99)}",
        f"median {number(layer.median)} · min {number(layer.min)}",
        f"threshold {number(layer.threshold)}" if layer.threshold is not None else "no threshold found",
        f"outliers {percent(layer.outlier_fraction)}",
    ]
    if layer.followed is not None:
        lines.append(f"outliers of the peak {number(layer.followed.median)}, {times(layer.followed.ratio)}")
    if layer.cls_norm is not None:
        lines.append(f"CLS {number(layer.cls_norm)}")
    if layer.register_norms:
        lines.append("registers " + ", ".join(number(v) for v in layer.register_norms))
    return "\n".join(lines)


def attention(result: ScanResult, width: float, height: float) -> Markup | None:
    """Share of the CLS attention that outliers take, against their share of the patches, per block."""
    taken = [(la.index, v) for la in result.layers for v in finite([la.cls_attention])]
    if not taken:
        return None
    xs = [la.index for la in result.layers]
    top = max([v for _, v in taken] + finite(la.outlier_fraction for la in result.layers))
    plot = framed(width, height, (min(xs) - 0.5, max(xs) + 0.5), (0, max(top * 108, 0.1)), ("linear", "linear"))
    ticks = [(t, f"{t:g}%") for t in plot.y.ticks(4)]
    plot.frame("block", "share", _layer_ticks(result.layers, width), ticks)
    plot.line([(la.index, 100 * la.outlier_fraction) for la in result.layers], "line-other")
    for run in _runs(result.layers):
        plot.line([(la.index, 100 * (la.cls_attention or 0)) for la in run], "line-outlier")
    for layer in result.layers:
        x = plot.x(layer.index)
        plot.add(
            "rect", x=x - 2.5, y=plot.y(100 * layer.outlier_fraction) - 2.5, width=5.0, height=5.0, class_="dot-other"
        )
        if layer.cls_attention is not None:
            plot.add("circle", cx=x, cy=plot.y(100 * layer.cls_attention), r=3.0, class_="dot-outlier")
        plot.hit(layer.index - 0.5, layer.index + 0.5, _attention_tip(layer))
    best = max(taken, key=lambda pair: pair[1])
    alt = (
        f"Share of the CLS attention that outliers take, per block; highest at block {best[0]} with {percent(best[1])}."
    )
    return plot.render(alt + " Arrow keys read the blocks.", "attention")


def _runs(layers: list[LayerRecord]) -> list[list[LayerRecord]]:
    """Neighbouring layers whose attention was measured: a line does not cross a gap."""
    groups = itertools.groupby(layers, key=lambda layer: layer.cls_attention is not None)
    return [list(members) for measured, members in groups if measured]


def _attention_tip(layer: LayerRecord) -> str:
    received = times(layer.received)
    lines = [
        f"block {layer.index}",
        f"{percent(layer.cls_attention)} of CLS attention",
        f"{percent(layer.outlier_fraction)} of the patches",
    ]
    return "\n".join(
        [*lines, f"an outlier receives {received} what another patch does"] if received != MISSING else lines
    )
