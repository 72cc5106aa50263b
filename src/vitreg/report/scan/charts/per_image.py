"""How many outliers an image has: the chart of the page."""

from __future__ import annotations

from markupsafe import Markup

from vitreg.records import Histogram, ScanResult
from vitreg.report.ranges import LARGEST
from vitreg.report.scan.charts import positions
from vitreg.report.scan.charts.about import About
from vitreg.report.svg import LEFT, framed, labelled
from vitreg.report.words import bin_name, countable, percent

ABOUT = About(title="How many an image has")
figure = None
NARROW = 400  # pixels; a narrower page shows one chart a row


def caption(result: ScanResult) -> str:
    """Say how the chart is read."""
    return "Images by their number of outliers. A bar at 0 counts the images without any."


def missing(result: ScanResult) -> str:
    """Say why there is no chart."""
    return "Counts per image were not recorded."


def svg(result: ScanResult, width: float) -> Markup | None:
    """Number of images by number of outliers; many bars are joined, images without outliers keep their bar."""
    data = result.per_image
    if data is None or not countable(data):
        return None
    height = 490 if width > NARROW and positions.drawn(result) else 300  # as tall as the positions beside it
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
    """Join counts to about `most` bars of (whole numbers, images), at least 8 so that no bar fills the chart."""
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
