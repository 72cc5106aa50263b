"""What value projections make of outliers, block by block: the chart of the page, and the figure for a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from markupsafe import Markup
from matplotlib.figure import Figure

from vitreg.records import ScanResult, ValueSpace
from vitreg.report.paper import INK, OUTLIER, PATCH, SHARES, NotMeasuredError, axes_of, mark_blocks
from vitreg.report.ranges import drawable
from vitreg.report.scan.charts.about import About
from vitreg.report.scan.charts.norms import block_ticks
from vitreg.report.svg import framed, labelled
from vitreg.report.words import PERCENT, count, finite, percent, times

ABOUT = About(
    title="What attention takes from outliers",
    legend=(("line-outlier", "outliers"), ("line-other", "other patches"), ("line-random", "random directions")),
)
LINES = (("outside", "line-outlier"), ("outside_normal", "line-other"), ("outside_random", "line-random"))


def mean(values: Sequence[float]) -> float:
    """Return the mean over heads of the finite values, NaN without any."""
    numbers = finite(values)
    try:
        return fmean(numbers) if numbers else math.nan
    except OverflowError:
        return math.inf


def _spaces(result: ScanResult) -> list[ValueSpace]:
    spaces = result.head_sinks.value_space if result.head_sinks else []
    return [each for each in spaces if all(math.isfinite(mean(getattr(each, name))) for name, _ in LINES)]


def in_words(result: ScanResult) -> str:
    """Say how long the values of outliers are where they are shortest, and how far these lie in the null space."""
    spaces = [each for each in _spaces(result) if math.isfinite(mean(each.length))]
    if not spaces:
        return ""
    least = min(spaces, key=lambda each: mean(each.length))
    return (
        f"In block {least.block} the values of outliers are {times(mean(least.length))} as long as those of other patches, the mean "
        f"of its heads; {percent(mean(least.outside))} of an outlier lies outside what the value projection reads, "
        f"{percent(mean(least.outside_normal))} of another patch, {percent(mean(least.outside_random))} of a random direction."
    )


def caption(result: ScanResult) -> str:
    """Say what was found, and how the chart is read."""
    images = count(result.head_sinks.value_images, "image") if result.head_sinks else ""
    return (
        f"{in_words(result)} The chart shows this share (of the squared norm after LayerNorm) for each block that reads outliers, from "
        f"{images}. The further above the line of other patches, the less attention can take from outliers."
    )


def missing(result: ScanResult) -> str:
    """Say why there is no chart."""
    if result.verdict.kind == "none":
        return "Without outliers there is nothing that attention could take from them."
    if result.head_sinks is not None and result.head_sinks.value_unread:
        return f"Not measured: {result.head_sinks.value_unread}"
    return "Not measured."


def svg(result: ScanResult, width: float, height: float = 300) -> Markup | None:
    """Share of outliers, other patches and random directions outside the row space of the value projection, by block."""
    spaces = _spaces(result)
    if not spaces:
        return None
    first, last = spaces[0].block, spaces[-1].block
    plot = framed(width, height, (first - 0.5, last + 0.5), (0, 105), ("linear", "linear"))
    ticks = [tick for tick in plot.y.ticks(4) if tick <= 100]
    plot.frame(
        "block that reads the tokens",
        "outside the value projection",
        block_ticks(first, last, width),
        labelled(ticks, PERCENT),
    )
    for name, mark in LINES:
        plot.line([(each.block, 100 * mean(getattr(each, name))) for each in spaces], mark)
    for each in spaces:
        plot.add("circle", cx=plot.x(each.block), cy=plot.y(100 * mean(each.outside)), r=3.0, class_="dot-outlier")
        tip = [
            f"block {each.block}, {count(each.outliers, 'outlier')}",
            f"values {times(mean(each.length))} as long, {times(mean(each.length_without_bias))} without bias",
            f"outside: {percent(mean(each.outside))}, others {percent(mean(each.outside_normal))}",
            f"random {percent(mean(each.outside_random))}",
        ]
        plot.hit(each.block - 0.5, each.block + 0.5, "\n".join(tip))
    return plot.render(
        f"Share of outliers outside the row space of the value projection, by block. {in_words(result)} Arrow keys read the blocks.",
        "values",
    )


def figure(result: ScanResult) -> Figure:
    """Share of outliers, other patches and random directions outside the row space of the value projection, by block.

    Raises:
        NotMeasuredError: if no block that reads outliers was measured.
    """
    spaces = _spaces(result)
    if not spaces:
        raise NotMeasuredError("the scan measured no values of outliers")
    figure, axes = axes_of(5.2, 3.2)
    blocks = [each.block for each in spaces]
    names = ("outliers", "other patches", "random directions")
    for (field, _), label, colour, style in zip(LINES, names, (OUTLIER, PATCH, INK), ("o-", "s--", ":"), strict=True):
        axes.plot(
            blocks,
            drawable(mean(getattr(each, field)) for each in spaces),
            style,
            color=colour,
            markersize=3,
            label=label,
        )
    mark_blocks(axes, blocks)
    axes.set_xlabel("block that reads the tokens")
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("outside the value projection")
    axes.yaxis.set_major_formatter(SHARES)
    axes.legend(frameon=False, fontsize=8)
    return figure
