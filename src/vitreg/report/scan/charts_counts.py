"""Charts of counts, as inline SVG from the record alone: norms at one layer, places, outliers per image, redundancy.

A chart is None where the scan did not measure what it draws; the page then says so in words.
"""

from __future__ import annotations

import math

import numpy as np
from markupsafe import Markup

from vitreg.records import Histogram, LayerRecord, ScanResult
from vitreg.report.colours import palette
from vitreg.report.ranges import LARGEST, positive_span
from vitreg.report.svg import LEFT, Axis, Kind, Plot, element, framed, labelled, png
from vitreg.report.words import PERCENT, bin_name, countable, density, number, percent, trimmed

COUNT_SCALES: tuple[Kind, ...] = ("log", "sqrt", "linear")
_SCALE_WORDS = {"log": "log scale", "sqrt": "square-root scale", "linear": "linear scale"}


Ranges = tuple[tuple[float, float], tuple[float, float]]  # of both axes


def histogram_ranges(layer: LayerRecord) -> Ranges | None:
    """The norms, and the shares above zero, that the histogram of a layer shows; None where nothing was counted."""
    if not countable(layer.histogram):
        return None
    data = trimmed(layer.histogram)
    shares = [c / sum(data.counts) for c in data.counts if c > 0]
    return positive_span([*data.edges, _cut(layer)]) or (0.0, 0.0), (min(shares), max(shares))


def _cut(layer: LayerRecord) -> float | None:
    return layer.threshold if layer.threshold is not None and math.isfinite(layer.threshold) else None


def histogram(
    layer: LayerRecord, width: float, height: float, scale: Kind = "log", ranges: Ranges | None = None
) -> Markup | None:
    """Norms at one layer on a log axis with the threshold; the share axis is log, square root or linear (Fig. 3).

    Args:
        layer: the record of a block.
        width, height: in pixels.
        scale: of the share axis.
        ranges: as `histogram_ranges`, to share axes between charts; by default what this layer needs.
    """
    ranges = ranges or histogram_ranges(layer)
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


def _split(a: float, b: float, cut: float | None, side: str | None) -> list[tuple[float, float, bool]]:
    """Cut one bin at the threshold: (from, to, outlier)."""
    if cut is None:
        return [(a, b, False)]
    low = side == "low"
    if b <= cut:
        return [(a, b, low)]
    return [(a, b, not low)] if a >= cut else [(a, cut, low), (cut, b, not low)]


def positions(result: ScanResult, width: float) -> Markup | None:
    """Share of images with an outlier at each place of the grid (Fig. 10); None if there are none."""
    grid = result.positions
    values = np.nan_to_num(np.asarray(grid.values if grid else [], dtype=np.float64), posinf=0.0, neginf=0.0)
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


def per_image(data: Histogram, width: float, height: float) -> Markup | None:
    """How many images carry how many outliers; bars of many counts are joined, the images without any stay apart."""
    if not countable(data):
        return None
    total = sum(data.counts)
    bars = _joined(data, most=int(width // 16))
    most = max(images for _, images in bars)
    plot = framed(width, height, (0, len(bars)), (0, most * 1.08), ("linear", "linear"))
    every = max(1, -(-max(len(name) for name, _ in bars) * 9 * len(bars) // int(width - LEFT)))
    ticks = [(i + 0.5, name) for i, (name, _) in enumerate(bars) if i % every == 0]
    whole = [t for t in plot.y.ticks(4) if t == round(t)]
    plot.frame("outliers in an image", "images", ticks, labelled(whole))
    for i, (name, images) in enumerate(bars):
        if images > 0:
            x, top = plot.x(i), plot.y(images)
            wide = max(plot.x(i + 1) - x - 2, 0.8)
            # An image without outliers has the colour of ordinary patches.
            kind = "bar" if name == "0" else "bar-outlier"
            plot.add("rect", x=x + 1, y=top, width=wide, height=max(plot.y.start - top, 1.0), class_=kind)
        plot.hit(i, i + 1, f"{name} outliers\n{images:,.0f} images ({percent(images / total)})")
    without = sum(images for name, images in bars if name == "0")
    alt = f"Number of outliers per image; {percent(without / total)} of the images have none."
    return plot.render(alt + " Arrow keys read the bars.", "per-image")


def _joined(data: Histogram, most: int) -> list[tuple[str, float]]:
    """Join counts to about `most` bars of (whole numbers, images), at least 8 so that one does not fill the chart."""
    last = max(i for i, c in enumerate(data.counts) if c > 0)
    edges, counts = list(data.edges[: last + 2]), list(data.counts[: last + 1])
    while len(counts) < 8:
        edges.append(min(edges[-1] + max(edges[-1] - edges[-2], 1.0), LARGEST))
        counts.append(0.0)
    apart = 1 if bin_name(edges[0], edges[1]) == "0" else 0
    least = -(-(len(counts) - apart) // most)
    every = next(size for power in range(12) for size in (10**power, 2 * 10**power, 5 * 10**power) if size >= least)
    starts = [*range(apart), *range(apart, len(counts), every)]
    stops = [*starts[1:], len(counts)]
    return [(bin_name(edges[a], edges[b]), sum(counts[a:b])) for a, b in zip(starts, stops, strict=True)]


def redundancy(result: ScanResult, width: float, height: float) -> Markup | None:
    """Cosine of patches to their neighbours, outliers against the rest, as two densities (Fig. 5a)."""
    record = result.redundancy
    if record is None:
        return None
    groups = [
        ("other", record.others, record.other_mean, 36.0),
        ("outlier", record.outliers, record.outlier_mean, 22.0),
    ]
    groups = [group for group in groups if countable(group[1])]
    if len(groups) < 2:
        return None
    used = [trimmed(data) for _, data, _, _ in groups]
    low, high = min(h.edges[0] for h in used), max(h.edges[-1] for h in used)
    top = max(v for _, data, _, _ in groups for v in density(data)) * 1.1
    plot = framed(width, height, (low, high), (0, top), ("linear", "linear"), 44.0)
    plot.frame("cosine similarity to the 4 neighbours", "density", labelled(plot.x.ticks(5)), labelled(plot.y.ticks(4)))
    for name, data, mean, row in groups:
        points = _steps(data, low, high)
        plot.band([p[0] for p in points], [0.0] * len(points), [p[1] for p in points], f"area-{name}")
        plot.line(points, f"line-{name}")
        if mean is not None and math.isfinite(mean):
            x = plot.x(mean)
            plot.add("line", x1=x, x2=x, y1=row + 4, y2=plot.y.start, class_=f"mean-{name}")
            plot.text(min(max(x, LEFT + 60), width - 50), row, f"mean {number(mean)}", f"mark-label {name}")
    if record.others.edges == record.outliers.edges:
        bins = zip(record.others.edges, record.others.edges[1:], strict=False)
        for (a, b), one, other in zip(bins, density(record.others), density(record.outliers), strict=True):
            if b > low and a < high:
                tip = f"cosine {a:.2f} to {b:.2f}\noutliers: density {number(other)}\nothers: density {number(one)}"
                plot.hit(max(a, low), min(b, high), tip)
    alt = "Two densities of the cosine similarity of a patch to its neighbours: mean "
    alt += f"{number(record.outlier_mean)} for outliers, {number(record.other_mean)} for other patches."
    return plot.render(alt + " Arrow keys read the bins.", "redundancy")


def _steps(data: Histogram, low: float, high: float) -> list[tuple[float, float]]:
    pairs = zip(data.edges, data.edges[1:], density(data), strict=False)
    return [(x, value) for a, b, value in pairs if b > low and a < high for x in (max(a, low), min(b, high))]
