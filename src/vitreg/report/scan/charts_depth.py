"""Charts along the depth of the network, as inline SVG from the record alone: norms, and attention taken by outliers.

A chart is None where the scan did not measure what it draws; the page then says so in words.
"""

from __future__ import annotations

import itertools

from markupsafe import Markup

from vitreg.records import LayerRecord, ScanResult
from vitreg.report.ranges import positive_span
from vitreg.report.svg import LEFT, Plot, framed, labelled
from vitreg.report.words import MISSING, PERCENT, finite, number, percent, shown_layer, times


def _block_ticks(first: int, last: int, width: float) -> list[tuple[float, str]]:
    every = max(1, -(-(last - first + 1) // max(int((width - LEFT) // 30), 1)))
    every = next((step for step in (1, 2, 4, 5, 8, 10, 20) if step >= every), every)
    return [(block, str(block)) for block in range(first, last + 1) if block % every == 0]


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


def block_span(result: ScanResult) -> tuple[int, int] | None:
    """The first and the last block that the chart of a scan shows; None without layers."""
    shown = [la.index for la in result.layers]
    return (min(shown), max(shown)) if shown else None


def norms_per_layer(
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
        span: range of the norm axis, to share it between charts; by default what this scan needs.
        blocks: first and last of the block axis, likewise.
    """
    layers = [la for la in result.layers if len(finite([la.min, la.median, la.p99, la.max])) == 4]
    span, blocks = span or norm_span(result), blocks or block_span(result)
    if not layers or span is None or blocks is None:
        return None
    registers = max(len(layer.register_norms) for layer in layers)
    plot = framed(width, height, (blocks[0] - 0.5, blocks[1] + 0.5), span, ("linear", "log"), 58.0)
    plot.frame("block", "norm (L2, log scale)", _block_ticks(*blocks, width), labelled(plot.y.ticks()))
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
    """Share of the CLS attention that outliers take, against their share of the patches.

    A point stands at the block that reads the tokens, one after the block that made them.
    """
    layers = read_layers(result)
    taken = [(la.index + 1, v) for la in layers for v in finite([la.cls_attention])]
    if not taken:
        return None
    first, last = layers[0].index + 1, layers[-1].index + 1
    top = max([v for _, v in taken] + finite(la.outlier_fraction for la in layers))
    plot = framed(width, height, (first - 0.5, last + 0.5), (0, max(top * 108, 0.1)), ("linear", "linear"))
    plot.frame(
        "block that reads the tokens", "share", _block_ticks(first, last, width), labelled(plot.y.ticks(4), PERCENT)
    )
    plot.line([(la.index + 1, 100 * la.outlier_fraction) for la in layers], "line-other")
    for run in _runs(layers):
        plot.line([(la.index + 1, 100 * (la.cls_attention or 0)) for la in run], "line-outlier")
    for layer in layers:
        block = layer.index + 1
        x = plot.x(block)
        plot.add(
            "rect", x=x - 2.5, y=plot.y(100 * layer.outlier_fraction) - 2.5, width=5.0, height=5.0, class_="dot-other"
        )
        if layer.cls_attention is not None:
            plot.add("circle", cx=x, cy=plot.y(100 * layer.cls_attention), r=3.0, class_="dot-outlier")
        plot.hit(block - 0.5, block + 0.5, _attention_tip(layer))
    best = max(taken, key=lambda pair: pair[1])
    alt = (
        f"Share of the CLS attention that outliers take, by the block that reads them; highest in block {best[0]} "
        f"with {percent(best[1])}."
    )
    return plot.render(alt + " Arrow keys read the blocks.", "attention")


def read_layers(result: ScanResult) -> list[LayerRecord]:
    """The layers whose tokens a further block reads: all but the last of the network."""
    return [la for la in result.layers if la.index + 1 < result.model.blocks]


def _runs(layers: list[LayerRecord]) -> list[list[LayerRecord]]:
    """Neighbouring layers whose attention was measured: a line does not cross a gap."""
    groups = itertools.groupby(layers, key=lambda layer: layer.cls_attention is not None)
    return [list(members) for measured, members in groups if measured]


def _attention_tip(layer: LayerRecord) -> str:
    received = times(layer.received)
    lines = [
        f"block {layer.index + 1}",
        f"{percent(layer.cls_attention)} of CLS attention",
        f"outliers of block {layer.index}: {percent(layer.outlier_fraction)} of the patches",
    ]
    return "\n".join(
        [*lines, f"an outlier receives {received} what another patch does"] if received != MISSING else lines
    )
