"""Attention that outliers take, block by block (Sec. 2): the chart of the page, and the figure for a paper."""

from __future__ import annotations

import itertools

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from vitreg.records import LayerRecord, ScanResult, reading_block
from vitreg.report.paper import OUTLIER, PATCH, SHARES, NotMeasuredError, axes_of, mark_blocks
from vitreg.report.ranges import drawable, usable
from vitreg.report.scan.charts.about import About
from vitreg.report.scan.charts.norms import block_ticks
from vitreg.report.svg import framed, labelled
from vitreg.report.words import MISSING, PERCENT, finite, percent, times

ABOUT = About(
    title="Attention that outliers take",
    paper="paper, Sec. 2",
    legend=(("line-outlier", "share of CLS attention"), ("line-other", "share of patches")),
)


def taken_in_words(result: ScanResult) -> str:
    """One sentence on the attention that outliers take, at the block where they take most; empty if not measured."""
    block = reading_block(result.layers)
    layer = next((la for la in result.layers if block is not None and la.index == block - 1), None)
    if layer is None:
        return ""
    if layer.cls_attention is None:
        return f"In block {block} an outlier receives {times(layer.received)} the attention of another patch."
    lift = layer.cls_attention / layer.outlier_fraction if layer.outlier_fraction > 0 else None
    than = f", {times(lift)} their share of the patches" if lift is not None else ""
    return f"In block {block} outliers take {percent(layer.cls_attention)} of the CLS attention{than}."


def caption(result: ScanResult) -> str:
    """Say what outliers take where they take most, and how the chart is read."""
    return (
        f"{taken_in_words(result)} Where the lines part, the class token looks at outliers more than their number explains. "
        "A point at block 5 is the attention in block 5 to the outliers that came out of block 4."
    )


def missing(result: ScanResult) -> str:
    """Say what outliers take all the same, and why there is no chart."""
    return f"{taken_in_words(result)} {_unread(result)}".strip()


def _unread(result: ScanResult) -> str:
    if result.attention_unread:
        return f"Attention was not read: {result.attention_unread}"
    if result.verdict.kind == "none":
        return "Without outliers there is no attention for them to take."
    if not result.model.tokens.get("cls"):
        return "This model has no class token whose attention could be shared out."
    return "Not measured."


def svg(result: ScanResult, width: float, height: float = 300) -> Markup | None:
    """Share of the CLS attention that outliers take, against their share of the patches.

    A point is placed at the block that reads the tokens, one after the block whose output they are.
    """
    layers = read_layers(result)
    taken = [(la.index + 1, v) for la in layers for v in finite([la.cls_attention])]
    if not taken:
        return None
    first, last = layers[0].index + 1, layers[-1].index + 1
    top = max([v for _, v in taken] + finite(la.outlier_fraction for la in layers))
    plot = framed(width, height, (first - 0.5, last + 0.5), (0, max(top * 108, 0.1)), ("linear", "linear"))
    plot.frame(
        "block that reads the tokens", "share", block_ticks(first, last, width), labelled(plot.y.ticks(4), PERCENT)
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
    """The layers whose tokens another block reads: all but the last."""
    return [la for la in result.layers if la.index + 1 < result.model.blocks]


def _runs(layers: list[LayerRecord]) -> list[list[LayerRecord]]:
    """Split the layers into runs with measured attention, so that no line crosses a gap."""
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


def figure(result: ScanResult) -> Figure:
    """Share of the CLS attention that outliers take, against their share of the patches, by the block that reads them.

    Raises:
        NotMeasuredError: if no layer holds the attention that outliers take.
    """
    layers = read_layers(result)
    taken = drawable(la.cls_attention for la in layers)
    if not np.isfinite(taken).any():
        raise NotMeasuredError("the scan holds no attention taken by outliers")
    figure, axes = axes_of(5.5, 3.4)
    xs = [la.index + 1 for la in layers]
    axes.plot(xs, taken, color=OUTLIER, marker="o", ms=4, label="share of CLS attention that outliers take")
    shares = drawable(la.outlier_fraction for la in layers)
    axes.plot(xs, shares, color=PATCH, ls="--", marker="s", ms=4, mfc="white", label="their share of the patches")
    axes.yaxis.set_major_formatter(SHARES)
    axes.set_ylim(*usable(0.0, 1.08 * float(np.nanmax([*taken, *shares]))))
    mark_blocks(axes, xs)
    axes.set_xlabel("block that reads the tokens")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure
