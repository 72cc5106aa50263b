"""Redundancy of outlier patches (Fig. 5a): the chart of the page, and the figure for a paper."""

from __future__ import annotations

import math

from markupsafe import Markup
from matplotlib.figure import Figure

from vitreg.records import Histogram, ScanResult
from vitreg.report.paper import OUTLIER, PATCH, NotMeasuredError, axes_of
from vitreg.report.ranges import drawable
from vitreg.report.scan.charts.about import About
from vitreg.report.svg import LEFT, framed, labelled
from vitreg.report.words import countable, density, number, percent, trimmed

ABOUT = About(
    title="Redundancy of the patches",
    paper="paper, Fig. 5a",
    legend=(("line-outlier", "outliers"), ("line-other", "other patches")),
)


def caption(result: ScanResult) -> str:
    """Say how the chart is read, and how often an outlier is the more redundant one of a pair."""
    said = (
        "How similar a patch is to its four neighbours before the first block. "
        "Outliers further right sit on plain, repetitive patches."
    )
    auc = result.redundancy.auc if result.redundancy else None
    if auc is None:
        return said
    return (
        f"{said} In {percent(auc)} of random pairs of an outlier and another patch, the outlier is the more redundant one "
        f"({percent(0.5)} would be chance)."
    )


def missing(result: ScanResult) -> str:
    """Say why there is no chart."""
    if result.verdict.kind == "none":
        return "Without outliers there are no two groups to compare."
    return "Redundancy was not measured."


def svg(result: ScanResult, width: float, height: float = 300) -> Markup | None:
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


def figure(result: ScanResult) -> Figure:
    """Cosine of patches to their neighbours, two densities (the paper's Fig. 5a).

    Raises:
        NotMeasuredError: if redundancy was not measured or there are no outliers to compare.
    """
    record = result.redundancy
    if record is None or not countable(record.outliers) or not countable(record.others):
        raise NotMeasuredError("the scan holds no two groups of patches to compare")
    figure, axes = axes_of(5.5, 3.4)
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
