"""The courses of the runs of one cell: largest norm over the median, and the task's error, a line for each seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vitreg.quantities import number
from vitreg.records.lab import Course, DesignRun
from vitreg.report.ranges import usable
from vitreg.report.run.over_steps import boundaries
from vitreg.report.svg import LEFT, RIGHT, Axis, Plot, labelled

WIDTH, TALL = 500.0, 118.0
ARTIFACT, SOLVED = 5.0, 0.01  # bounds that are drawn; the lab judges by them
Span = tuple[float, float]
Line = tuple[int, list[tuple[int, float]]]  # seed, points


@dataclass(frozen=True)
class Scales:
    """Axes that all cells share."""

    steps: Span
    ratio: Span
    error: Span


def scales_of(runs: Sequence[DesignRun]) -> Scales:
    """Return the ranges of all courses."""
    courses = [run.course for run in runs if run.course]
    ratios = [value for each in courses for value in each.ratio if value > 0]
    errors = [value for each in courses for value in each.error if value]
    steps = [step for each in courses for step in (*each.looks, *each.evaluated)]
    return Scales(
        steps=usable(0.0, max(steps, default=1)),
        ratio=usable(min([*ratios, 1.0]) / 1.05, max([*ratios, ARTIFACT]) * 1.2, log=True),
        error=usable(min([*errors, SOLVED]) / 1.2, max([*errors, SOLVED]) * 1.2, log=True),
    )


def of_cell(runs: Sequence[DesignRun], scales: Scales) -> list[Markup]:
    """Draw both courses; nothing for a cell without any."""
    courses = [(run.seed, run.course) for run in runs if run.course]
    drawn = [
        _chart("largest norm / median", scales.steps, scales.ratio, ARTIFACT, _lines(courses, "ratio"), "birth-block")
    ]
    drawn.append(
        _chart("error of what is asked", scales.steps, scales.error, SOLVED, _lines(courses, "error"), "birth-error")
    )
    return [each for each in drawn if each is not None]


def _lines(courses: Sequence[tuple[int, Course]], name: str) -> list[Line]:
    found = []
    for seed, each in courses:
        steps, values = (each.looks, each.ratio) if name == "ratio" else (each.evaluated, each.error)
        points = [(step, value) for step, value in zip(steps, values, strict=True) if value and math.isfinite(value)]
        if points:
            found.append((seed, points))
    return found


def _chart(label: str, steps: Span, span: Span, bound: float, lines: Sequence[Line], class_: str) -> Markup | None:
    if not lines:
        return None
    x, y = Axis(*steps, start=LEFT, stop=WIDTH - RIGHT), Axis(*span, start=TALL, stop=28.0, kind="log")
    plot = Plot(WIDTH, TALL + 44, x, y)
    plot.frame("step", f"{label}, log scale", labelled(x.ticks(4)), labelled(y.ticks(3)))
    plot.add("line", x1=x.start, x2=x.stop, y1=y(bound), y2=y(bound), class_="run-cut")
    for _, points in lines:
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
        plot.add("polyline", points=path, class_=class_, stroke_opacity=0.55)
    at = sorted({step for _, points in lines for step, _ in points})
    for step, left, right in zip(at, (edges := boundaries(at)), edges[1:], strict=False):
        here = [f"seed {seed}: {number(value)}" for seed, points in lines for own, value in points if own == step]
        plot.hit(left, right, "\n".join([f"step {step:,}", *here[:12]]))
    ends = "; ".join(f"seed {seed} {number(points[-1][1])} at step {points[-1][0]:,}" for seed, points in lines[:12])
    return plot.render(f"{label} over steps. {ends}. Arrow keys read the steps.", "lab-course")
