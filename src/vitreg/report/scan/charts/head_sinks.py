"""Heads with an attention sink, by block and kind: the chart of the page, and the figure for a paper."""

from __future__ import annotations

import math
from collections import Counter

from markupsafe import Markup
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from vitreg.quantities import number
from vitreg.records import SINK_KINDS, ScanResult, SinkKind, SinksRecord
from vitreg.report.paper import OUTLIER, PATCH, REGISTER, NotMeasuredError, axes_of
from vitreg.report.scan.charts.about import About
from vitreg.report.scan.charts.norms import block_ticks
from vitreg.report.svg import LEFT, RIGHT, TOP, Axis, Plot
from vitreg.report.words import count, percent

ABOUT = About(
    title="Heads with an attention sink",
    legend=(("bar-no-op", "no-op"), ("bar-broadcast", "broadcast"), ("bar-unclear", "unclear")),
)
COLOURS: dict[SinkKind, str] = {"no-op": PATCH, "broadcast": OUTLIER, "unclear": REGISTER}
FAINTEST = 0.15  # opacity of a head with a sink in few images
NOTE = (
    "A head has a sink where nearly all queries look at one key. A no-op sink carries almost no value, so the head does nothing; "
    "a broadcast sink gives all tokens the same. The fuller the colour, the more images."
)


def in_words(result: ScanResult) -> str:
    """Say how many heads have a sink, and of which kinds; empty if it was not measured."""
    sinks = result.head_sinks
    if sinks is None:
        return ""
    heads = sum(len(row) for row in sinks.no_op)
    found = Counter(kind for _, _, kind in sinks.kinds())
    if found:
        kinds = ", ".join(f"{found[kind]} {kind}" for kind in SINK_KINDS if found[kind])
        have = "has" if found.total() == 1 else "have"
        return f"{count(found.total(), 'head')} of {heads} {have} a sink in at least half of the images: {kinds}."
    best, block, head = _most(sinks)
    if not best:
        return f"None of the {heads} heads has a sink in any image."
    return f"No head has a sink in half of the images; the most frequent is in {percent(best)}, in head {head} of block {block}."


def _most(sinks: SinksRecord) -> tuple[float, int, int]:
    """The largest share of images with a sink, and in which block and head."""
    cells = [(block, head) for block, row in enumerate(sinks.no_op) for head in range(len(row))]
    return max(((share_of(sinks, *cell), *cell) for cell in cells), default=(0.0, 0, 0), key=lambda found: found[0])


def share_of(sinks: SinksRecord, block: int, head: int) -> float:
    """Return the share of images with a sink, 0 to 1; 0 where nothing was measured."""
    share = sinks.share(block, head)
    return min(max(share, 0.0), 1.0) if share is not None and math.isfinite(share) else 0.0


def kind_of(sinks: SinksRecord, block: int, head: int) -> SinkKind:
    """Return the most frequent kind, however rare."""
    return max(SINK_KINDS, key=lambda kind: sinks.of(kind)[block][head] or 0.0)


def caption(result: ScanResult) -> str:
    """Say what was found, and how the chart is read."""
    return f"{in_words(result)} {NOTE}"


def missing(result: ScanResult) -> str:
    """Say what was found all the same, or why nothing was measured."""
    if result.head_sinks is None:
        return f"Attention was not read: {result.attention_unread}" if result.attention_unread else "Not measured."
    return in_words(result)


def svg(result: ScanResult, width: float) -> Markup | None:
    """Blocks from left to right, heads from top to bottom, coloured by the most frequent kind; None without any sink."""
    sinks = result.head_sinks
    if sinks is None or not _most(sinks)[0]:
        return None
    blocks, heads = len(sinks.no_op), max(len(row) for row in sinks.no_op)
    wide, tall = width - LEFT - RIGHT, min(26.0 * heads, 320.0)
    plot = Plot(
        width, TOP + tall + 48, Axis(-0.5, blocks - 0.5, LEFT, LEFT + wide), Axis(-0.5, heads - 0.5, TOP, TOP + tall)
    )
    cell = {"width": max(wide / blocks - 2, 1.0), "height": max(tall / heads - 2, 1.0)}
    for block, row in enumerate(sinks.no_op):
        for head in range(len(row)):
            place = {"x": plot.x(block - 0.5) + 1, "y": plot.y(head - 0.5) + 1, **cell}
            plot.add("rect", **place, class_="cell-empty")
            share = share_of(sinks, block, head)
            if share:
                opacity = FAINTEST + (1 - FAINTEST) * share
                plot.add("rect", **place, class_=f"bar-{kind_of(sinks, block, head)}", fill_opacity=opacity)
        plot.hit(block - 0.5, block + 0.5, _tip(sinks, block))
    for block, text in block_ticks(0, blocks - 1, width):
        plot.text(plot.x(block), TOP + tall + 18, text, "tick")
    for head in sorted({0, heads // 2, heads - 1}):
        plot.text(LEFT - 8, plot.y(head) + 4, str(head), "tick", "end")
    plot.text(8, 14, "head", "axis-label", "start")
    plot.text(LEFT + wide / 2, TOP + tall + 38, "block", "axis-label")
    return plot.render(
        f"Heads by blocks, coloured by the kind of their sink. {in_words(result)} Arrow keys read the blocks.", "sinks"
    )


def _tip(sinks: SinksRecord, block: int) -> str:
    lines = [f"block {block}"]
    shares = [(share_of(sinks, block, head), head) for head in range(len(sinks.no_op[block]))]
    for share, head in sorted(shares, key=lambda pair: -pair[0])[:5]:
        if share:
            value, rank = sinks.value_ratio[block][head], sinks.stable_rank[block][head]
            lines.append(
                f"head {head}: {kind_of(sinks, block, head)}, {percent(share)} of the images, value {number(value)}× the mean, "
                f"rank {number(rank)}"
            )
    if len(lines) == 1:
        return f"block {block}\nno sink"
    on = sinks.on_outliers[block]
    return "\n".join(lines if on is None else [*lines, f"{percent(on)} of its sinks are outliers"])


def figure(result: ScanResult) -> Figure:
    """Blocks by heads, coloured by the most frequent kind of sink; opacity is the share of images with one.

    Raises:
        NotMeasuredError: if no head has a sink in any image, or attention was not read.
    """
    sinks = result.head_sinks
    if sinks is None or not _most(sinks)[0]:
        raise NotMeasuredError("the scan found no head with a sink")
    blocks, heads = len(sinks.no_op), max(len(row) for row in sinks.no_op)
    figure, axes = axes_of(5.2, 3.2)
    cells = [[(1.0, 1.0, 1.0, 0.0)] * blocks for _ in range(heads)]
    for block, row in enumerate(sinks.no_op):
        for head in range(len(row)):
            share = share_of(sinks, block, head)
            if share:
                cells[head][block] = to_rgba(COLOURS[kind_of(sinks, block, head)], FAINTEST + (1 - FAINTEST) * share)
    axes.imshow(cells, aspect="auto", interpolation="nearest")
    axes.set_xlabel("block")
    axes.set_ylabel("head")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    shown = [Patch(color=COLOURS[kind], label=kind) for kind in SINK_KINDS]
    axes.legend(handles=shown, frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure
