"""Charts over the steps of training runs, as inline SVG from the records alone: curves, norms, outliers by block.

A chart is None if the runs did not log its data; the page then says so in words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from vitreg.records import Curve, NormsMoment, Watch
from vitreg.report.ranges import usable
from vitreg.report.run.over_steps import (
    Point,
    best,
    boundaries,
    nearest_look,
    norm_density,
    norm_span,
    strengths,
    thinned,
)
from vitreg.report.svg import LEFT, RIGHT, Axis, Kind, Plot, framed, labelled, png
from vitreg.report.words import number, percent, times

# Opacity carries the value, so one picture serves light and dark; the hues lie between those of the two style sheets.
PATCH, OUTLIER = (74, 144, 208), (226, 100, 52)
ROWS = 128  # rows of the density of norms
MOST_DOTS = 32  # up to this many points of a line get a dot
MOST_TIPS = 120
TOP = 44.0  # room for the onset's label, below the label of the axis
Span = tuple[float, float]


def curves(
    drawn: Sequence[tuple[int, str, Curve | None]],
    width: float,
    height: float,
    label: str,
    *,
    unit: str = "",
    mark_best: bool = False,
    from_zero: bool = False,
) -> Markup | None:
    """Draw one number over the steps, a line per run; joined values also get a band from least to most.

    Args:
        drawn: (index of the run, which picks its colour; name of the run; curve).
        label: label of the value axis. The axis is logarithmic if the values span more than a factor of 20.
        unit: suffix of the values, such as words.PERCENT.
        mark_best: whether to mark the best value of every run.
        from_zero: whether the value axis begins at 0.
    """
    lines = [(place, name, thinned(c), best(c)) for place, name, c in drawn if c is not None and thinned(c)]
    if not lines:
        return None
    values = [v for _, _, points, _ in lines for p in points for v in (p.low, p.high)]
    last = max(points[-1].step for _, _, points, _ in lines)
    span, kind = _value_span(values, from_zero)
    plot = framed(width, height, (0.0, max(last, 1)), span, ("linear", kind))
    note = ", log scale" if kind == "log" else ""
    plot.frame("step", label + note, labelled(plot.x.ticks(few(width))), labelled(plot.y.ticks(4), unit))
    for place, _, points, _ in lines:
        if any(p.high > p.low for p in points):
            xs = [p.step for p in points]
            plot.band(xs, [p.low for p in points], [p.high for p in points], f"run-band run-{place}")
    said = []
    for place, name, points, top in lines:
        plot.line([(p.step, p.value) for p in points], f"run-line run-{place}")
        if len(points) <= MOST_DOTS:
            for p in points:
                plot.add("circle", cx=plot.x(p.step), cy=plot.y(p.value), r=2.4, class_=f"run-dot run-{place}")
        if mark_best and top:
            plot.add("circle", cx=plot.x(top[0]), cy=plot.y(top[1]), r=5.5, class_=f"run-best run-{place}")
        end = f"{name}: {number(points[0].value)}{unit} at step {points[0].step:,}, "
        end += f"{number(points[-1].value)}{unit} at step {points[-1].step:,}"
        said.append(end + (f", best {number(top[1])}{unit} at step {top[0]:,}" if mark_best and top else ""))
    _curve_tips(plot, [(name, points) for _, name, points, _ in lines], unit)
    return plot.render(f"{label} over steps. {'; '.join(said)}. Arrow keys read the steps.", "curves")


def _value_span(values: Sequence[float], from_zero: bool) -> tuple[Span, Kind]:
    low, high = usable(min(values), max(values))
    if low > 0 and high > 20 * low and not from_zero:
        return (low / 1.1, high * 1.1), "log"
    margin = 0.06 * (high - low)
    return (0.0 if from_zero and min(values) >= 0 else low - margin, high + margin), "linear"


def step_span(steps: Sequence[int]) -> Span:
    """Return the range from the first step to the last, widened if they are equal."""
    low, high = min(steps), max(steps)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def few(width: float) -> int:
    """Return how many ticks a step axis of a width in pixels has."""
    return 3 if width < 400 else 6 if width > 800 else 4


def _curve_tips(plot: Plot, lines: Sequence[tuple[str, list[Point]]], unit: str) -> None:
    """Add a tooltip for each drawn step (joined if there are many) with the values of every run that reached it."""
    steps = sorted({p.step for _, points in lines for p in points})
    steps = steps[:: -(-len(steps) // MOST_TIPS)]
    edges = boundaries(steps)
    for step, left, right in zip(steps, edges, edges[1:], strict=False):
        words = [f"step {step:,}"]
        for name, points in lines:
            near = min(points, key=lambda p: abs(p.step - step))
            if near.step >= left - 1 and points[-1].step >= step >= points[0].step:
                at = "" if near.step == step else f" (step {near.step:,})"
                words.append(f"{name}: {number(near.value)}{unit}{at}")
        plot.hit(left, right, "\n".join(words))


def norms(
    watch: Watch, width: float, height: float, *, steps: Span | None = None, span: Span | None = None
) -> Markup | None:
    """Distribution of patch norms after the last block over the steps, on a log axis (Fig. 4b).

    Args:
        watch: the looks at a run.
        steps, span: ranges of both axes, to share them between runs; by default this run's ranges.
    """
    moments, span = watch.moments, span or norm_span(watch.moments)
    if span is None or not all(moment.layers for moment in moments):
        return None
    looks = [moment.step for moment in moments]
    plot = framed(width, height, steps or step_span(looks), span, ("linear", "log"), TOP)
    plot.frame("step", "norm (L2, log scale)", labelled(plot.x.ticks(few(width))), labelled(plot.y.ticks()))
    opacity = strengths(norm_density(moments, span, ROWS))
    _picture(plot, opacity, looks, PATCH)
    last = [moment.layers[-1] for moment in moments]
    for name in ("max", "p99", "median"):
        plot.line([(s, getattr(layer, name)) for s, layer in zip(looks, last, strict=True)], f"over-{name}")
    mark_onset(plot, watch)
    for moment, left, right in _columns(moments):
        layer = moment.layers[-1]
        plot.hit(
            left, right,
            f"step {moment.step:,}\nmax {number(layer.max)} · p99 {number(layer.p99)}\nmedian {number(layer.median)}\n{_found(moment)}",
        )  # fmt: skip
    alt = f"Norms of patch tokens after the last block at {len(looks)} steps. Median {number(last[0].median)} at step "
    alt += f"{looks[0]:,}, {number(last[-1].median)} at step {looks[-1]:,}; maximum {number(last[0].max)}, then "
    return plot.render(alt + f"{number(last[-1].max)}. {watch.sentence} Arrow keys read the steps.", "norms-over-steps")


def outliers_by_block(
    watch: Watch, width: float, *, steps: Span | None = None, top: float | None = None
) -> Markup | None:
    """Share of outliers in every block over the steps; None if no block ever has any.

    Args:
        watch: the looks at a run.
        steps: range of the step axis.
        top: share drawn darkest, to share it between runs.
    """
    moments = watch.moments
    blocks = max((len(moment.layers) for moment in moments), default=0)
    shares = np.zeros((blocks, len(moments)))  # [blocks, looks], block 0 at the bottom
    for column, moment in enumerate(moments):
        for index, layer in enumerate(moment.layers):
            shares[blocks - 1 - index, column] = (
                max(layer.outlier_fraction, 0) if math.isfinite(layer.outlier_fraction) else 0
            )
    highest = float(shares.max(initial=0))
    if highest <= 0:
        return None
    looks = [moment.step for moment in moments]
    bottom = TOP + max(120.0, min(15.0 * blocks, 340.0))
    x = Axis(*(steps or step_span(looks)), start=LEFT, stop=width - RIGHT)
    plot = Plot(width, bottom + 78, x, Axis(-0.5, blocks - 0.5, start=bottom, stop=TOP))
    every = next(step for step in (1, 2, 4, 5, 10, 20, 50) if 13 * blocks / step < bottom - TOP or step == 50)
    ticks = [(float(i), str(i)) for i in range(0, blocks, every)]
    plot.frame("step", "block", labelled(plot.x.ticks(few(width))), ticks)
    scaled = shares / (top or highest)
    opacity = np.where(shares > 0, 0.15 + 0.85 * np.minimum(scaled, 1), 0.0)
    _picture(plot, opacity, looks, OUTLIER)
    mark_onset(plot, watch)
    _share_bar(plot, bottom + 58, top or highest)
    for moment, left, right in _columns(moments):
        found = [(i, la) for i, la in enumerate(moment.layers) if la.outlier_fraction > 0]
        lines = [f"block {i}: {percent(la.outlier_fraction)}, {times(la.ratio)}" for i, la in found[-8:][::-1]]
        more = [f"and {len(found) - 8} earlier blocks"] if len(found) > 8 else []
        plot.hit(left, right, "\n".join([f"step {moment.step:,}", *(lines or ["no outliers"]), *more]))
    row, column = np.unravel_index(int(shares.argmax()), shares.shape)
    alt = (
        f"Heat map of {blocks} blocks over {len(looks)} looks: share of outliers. Highest in block {blocks - 1 - row} "
    )
    return plot.render(alt + f"at step {looks[column]:,}: {percent(highest)}. Arrow keys read the steps.", "by-block")


def _picture(plot: Plot, opacity: np.ndarray, looks: Sequence[int], colour: tuple[int, int, int]) -> None:
    """Draw a grid into the plot: a column per look, from midpoint to midpoint of its neighbours."""
    left, right = plot.x.start, plot.x.stop
    at = nearest_look(looks, plot.x.low, plot.x.high, pixels=round(right - left))
    cells = np.where(at >= 0, opacity[:, at], 0.0)  # [rows, pixels]
    pixels = np.empty((*cells.shape, 4), dtype=np.uint8)
    pixels[..., :3] = colour
    pixels[..., 3] = np.rint(255 * cells)
    high = min(plot.y.start, plot.y.stop)
    plot.add(
        "image", href=png(pixels), x=left, y=high, width=right - left, height=abs(plot.y.start - plot.y.stop),
        preserveAspectRatio="none", image_rendering="pixelated",
    )  # fmt: skip


def _share_bar(plot: Plot, y: float, top: float) -> None:
    """The scale of the heat map, below it."""
    ramp = np.zeros((1, 128, 4), dtype=np.uint8)
    ramp[..., :3] = OUTLIER
    ramp[..., 3] = np.rint(255 * np.linspace(0.15, 1, 128))
    plot.add("image", href=png(ramp), x=LEFT, y=y, width=110.0, height=10.0, preserveAspectRatio="none")
    plot.text(LEFT + 118, y + 9, f"up to {percent(top)} of the patches", "tick", "start")


def mark_onset(plot: Plot, watch: Watch) -> None:
    """Draw a line at the onset of the artifacts, labelled with the step."""
    looks = [moment.step for moment in watch.moments]
    if watch.onset is None or watch.onset not in looks or not plot.x.low <= watch.onset <= plot.x.high:
        return
    at = boundaries(looks)[looks.index(watch.onset)]
    x, top = plot.x(at), min(plot.y.start, plot.y.stop)
    plot.add("line", x1=x, x2=x, y1=top - 8, y2=plot.y.start, class_="mark")
    words = f"artifacts from step {watch.onset:,}"
    plot.text(x, top - 12, words, "mark-label", "start" if x < plot.width / 2 else "end")


def _columns(moments: Sequence[NormsMoment]) -> list[tuple[NormsMoment, float, float]]:
    edges = boundaries([moment.step for moment in moments])
    return list(zip(moments, edges, edges[1:], strict=False))


def _found(moment: NormsMoment) -> str:
    if moment.verdict == "none":
        return "no artifacts"
    return f"{moment.verdict} artifacts, {moment.strength}: {percent(moment.outlier_fraction)}"
