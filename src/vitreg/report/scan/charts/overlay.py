"""The norms of several models at one block, as lines on one axis."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

from markupsafe import Markup

from vitreg.records import LayerRecord, ScanResult
from vitreg.report.ranges import positive_span
from vitreg.report.svg import framed, labelled
from vitreg.report.words import PERCENT, countable, number, percent, shown_layer, trimmed

STEPS = 48  # tooltips along the axis
UNIT = 0.1  # doublings of the norm: the width to which shares are normalised, about a bin
Line = tuple[list[float], list[float]]  # edges of the bins, share of the tokens per UNIT


def one_block(results: Sequence[ScanResult]) -> list[LayerRecord | None]:
    """Return the layers to compare: the block with the clearest artifacts in any scan, or else with the longest tail.

    In a model of another depth it is the block at the same relative depth. None if that was not measured.
    """
    shown = [(result, layer) for result in results if (layer := shown_layer(result)) is not None]
    if not shown:
        return [None] * len(results)
    found = [(result, layer) for result, layer in shown if result.verdict.kind != "none"] or shown
    result, layer = max(found, key=lambda each: _reach(each[1]))
    through = layer.index / max(result.model.blocks - 1, 1)
    wanted = [round(through * max(each.model.blocks - 1, 0)) for each in results]
    return [
        next((layer for layer in result.layers if layer.index == index), None)
        for result, index in zip(results, wanted, strict=True)
    ]


def line_class(place: int) -> str:
    """The CSS class of a line in chart and legend; every other line is dashed, so that equal lines both show."""
    return f"run-line run-{place}{' dashed' if place % 2 else ''}"


def _reach(layer: LayerRecord) -> float:
    ratio = layer.ratio if layer.ratio is not None and math.isfinite(layer.ratio) else 0.0
    return ratio or (layer.p99 / layer.median if layer.median > 0 and math.isfinite(layer.p99) else 0.0)


def svg(layers: Sequence[tuple[str, LayerRecord | None]], width: float, height: float) -> Markup | None:
    """Share of the patch tokens over the norm, a line for each model, with its threshold; None if nothing was counted.

    A line is the share per tenth of a doubling of the norm, so bins of any width are comparable.
    """
    lines = [(place, name, layer, _line(layer)) for place, (name, layer) in enumerate(layers) if layer is not None]
    lines = [(place, name, layer, line) for place, name, layer, line in lines if line is not None]
    values = [v for *_, (_, heights) in lines for v in heights if v > 0]
    cuts = {place: layer.threshold for place, _, layer, _ in lines if layer.threshold is not None}
    bounds = positive_span([*(edge for *_, (edges, _) in lines for edge in edges), *cuts.values()])
    if len(lines) < 2 or not values or bounds is None:
        return None
    plot = framed(width, height, bounds, (100 * min(values) / 3, 120 * max(values)), ("log", "log"), 46.0)
    plot.frame(
        "norm (L2, log scale)", "tokens per tenth of a doubling (log scale)",
        labelled(plot.x.ticks(6)), labelled(plot.y.ticks(), PERCENT),
    )  # fmt: skip
    said = []
    for place, name, layer, (edges, heights) in lines:
        steps = [(edge, 100 * v) for ends, v in zip(pairwise(edges), heights, strict=True) for edge in ends]
        plot.line([(edges[0], 0.0), *steps, (edges[-1], 0.0)], line_class(place))
        if place in cuts:
            x = plot.x(cuts[place] or 0.0)
            plot.add("line", x1=x, x2=x, y1=46.0, y2=plot.y.start, class_=f"run-cut run-{place}")
        said.append(f"{name}: block {layer.index}, median {number(layer.median)}, longest {number(layer.max)}")
    _tips(lines, bounds, plot.hit)
    alt = "Patch-token norms of the models at one block. " + "; ".join(said) + ". Arrow keys read the norms."
    return plot.render(alt, "overlay")


def _line(layer: LayerRecord) -> Line | None:
    if not countable(layer.histogram):
        return None
    data = trimmed(layer.histogram)
    if not data.edges or data.edges[0] <= 0:
        return None
    total = sum(data.counts)
    widths = [math.log2(b / a) for a, b in pairwise(data.edges)]
    return data.edges, [UNIT * c / total / w if w > 0 else 0.0 for c, w in zip(data.counts, widths, strict=True)]


def _tips(
    lines: Sequence[tuple[int, str, LayerRecord, Line]],
    bounds: tuple[float, float],
    hit: Callable[[float, float, str], None],
) -> None:
    low, high = bounds
    marks = [low * (high / low) ** (step / STEPS) for step in range(STEPS + 1)]
    for a, b in pairwise(marks):
        centre = math.sqrt(a * b)
        words = [f"{name}: {percent(_at(line, centre))}" for _, name, _, line in lines]
        hit(a, b, f"norm {number(centre)}, per tenth of a doubling\n" + "\n".join(words))


def _at(line: Line, norm: float) -> float:
    edges, heights = line
    place = bisect_right(edges, norm) - 1
    return heights[place] if 0 <= place < len(heights) else 0.0
