"""The birth of artifacts in a run: the task's error, norms by block, attention and values, over the same steps.

`panels` is what is drawn, for the page (`charts`) and the picture (`figures`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from vitreg.records import ByToken, LayerMoment, NormsMoment, RunRecord, Watch
from vitreg.report.ranges import LARGEST, usable
from vitreg.report.run.charts import few, mark_onset, step_span
from vitreg.report.run.over_steps import boundaries, is_loss, named
from vitreg.report.svg import LEFT, RIGHT, Axis, Kind, Plot, labelled
from vitreg.report.words import number

TASK = "val_asked"
"""The error of what is asked of other patches, where a recipe has it; the number that judges the run elsewhere."""
TOKENS: tuple[Literal["outliers", "background", "registers"], ...] = ("outliers", "background", "registers")
Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Line:
    """One curve.

    Args:
        kind: "error", "block", or one of `TOKENS`.
        strength: opacity, 0 to 1.
    """

    name: str
    kind: str
    points: Points
    strength: float = 1.0


@dataclass(frozen=True)
class Panel:
    """Curves with one axis of values.

    Args:
        top: the least that the axis reaches up to.
    """

    name: Literal["error", "ratio", "attention", "values"]
    label: str
    lines: list[Line]
    kind: Kind = "linear"
    top: float = 0.0

    @property
    def span(self) -> tuple[float, float]:
        """The range of the axis: from 0, or from the smallest value on a log scale."""
        values = [value for line in self.lines for _, value in line.points]
        if self.kind == "log":
            positive = [value for value in values if value > 0] or [1.0]
            return usable(min(positive) / 1.1, min(max(self.top, *positive), LARGEST) * 1.1, log=True)
        return usable(0.0, max(self.top, *values) * 1.05)


def panels(run: RunRecord) -> list[Panel]:
    """Return what was recorded of the birth, from top to bottom; nothing for a run that was not watched."""
    if run.watched is None:
        return []
    moments = run.watched.moments
    found = [_error(run), _ratios(moments), *_by_token(moments)]
    return [each for each in found if each is not None and any(line.points for line in each.lines)]


def _error(run: RunRecord) -> Panel | None:
    curve = named(run.evaluations, TASK) or next(iter(run.evaluations), None)
    if curve is None:
        return None
    points = _points(curve.steps, curve.values)
    words = "error of what is asked" if curve.name == TASK else curve.name.replace("_", " ")
    log = is_loss(curve.name) and all(value > 0 for _, value in points)
    return Panel("error", words, [Line(words, "error", points)], "log" if log else "linear")


def _ratios(moments: Sequence[NormsMoment]) -> Panel:
    """The largest norm over the median, of single images; of all images together in runs that recorded no more."""
    single = all(layer.image_ratio is not None for moment in moments for layer in moment.layers)
    blocks, steps = max((len(moment.layers) for moment in moments), default=0), [moment.step for moment in moments]
    lines = []
    for block in range(blocks):
        layers = [moment.layers[block] if block < len(moment.layers) else None for moment in moments]
        values = [layer.image_ratio if layer and single else _pooled(layer) for layer in layers]
        lines.append(Line(f"block {block}", "block", _points(steps, values), 0.25 + 0.75 * (block + 1) / blocks))
    where = "of the image, median over images" if single else "of all images together"
    return Panel("ratio", f"largest norm / median {where}", lines, "log", top=5.0)


def _pooled(layer: LayerMoment | None) -> float | None:
    return None if layer is None or not layer.median else layer.max / layer.median


def _by_token(moments: Sequence[NormsMoment]) -> list[Panel]:
    """Attention to each kind of token, in the block that gives it most; the values in that block."""
    attention, values = [], []
    for kind in TOKENS:
        blocks = [(moment.step, _most(moment, kind)) for moment in moments]
        mass = [(step, _of(layer.attention, kind)) for step, layer in blocks if layer is not None]
        length = [(step, _of(layer.values, kind)) for step, layer in blocks if layer is not None]
        attention.append(Line(kind, kind, _points(*_apart(mass))))
        values.append(Line(kind, kind, _points(*_apart(length))))
    return [
        Panel("attention", "share of the attention that goes to", [line for line in attention if line.points], top=1.0),
        Panel("values", "norm of their values / mean of all", [line for line in values if line.points], top=1.0),
    ]


def _most(moment: NormsMoment, kind: str) -> LayerMoment | None:
    """Return the block that gives a kind of token most attention; None if nothing is known of it."""
    known = [layer for layer in moment.layers if _of(layer.attention, kind) is not None]
    return max(known, key=lambda layer: _of(layer.attention, kind) or 0.0, default=None)


def _of(numbers: ByToken | None, kind: str) -> float | None:
    return None if numbers is None else getattr(numbers, kind)


def _apart(pairs: Sequence[tuple[int, float | None]]) -> tuple[list[int], list[float | None]]:
    return [step for step, _ in pairs], [value for _, value in pairs]


def _points(steps: Sequence[int], values: Sequence[float | None]) -> Points:
    return [(s, v) for s, v in zip(steps, values, strict=True) if v is not None and math.isfinite(v)]


def chart(panel: Panel, watch: Watch, width: float, *, steps: tuple[float, float] | None = None) -> Markup:
    """Draw one panel as SVG; all panels of a run share the step axis, and the onset is marked in each."""
    looks = [step for line in panel.lines for step, _ in line.points]
    tall = 190.0 if panel.name in ("error", "ratio") else 150.0
    x = Axis(*(steps or step_span([moment.step for moment in watch.moments])), start=LEFT, stop=width - RIGHT)
    plot = Plot(width, tall + 48, x, Axis(*panel.span, start=tall, stop=44.0, kind=panel.kind))
    note = ", log scale" if panel.kind == "log" else ""
    plot.frame("step", panel.label + note, labelled(x.ticks(few(width))), labelled(plot.y.ticks(4)))
    for line in panel.lines:
        drawn = [(step, value) for step, value in line.points if x.low <= step <= x.high]
        path = " ".join(f"{x(step):.1f},{plot.y(value):.1f}" for step, value in drawn)
        plot.add("polyline", points=path, class_=f"birth-{line.kind}", stroke_opacity=float(line.strength))
        if len(drawn) == 1:
            plot.add("circle", cx=x(drawn[0][0]), cy=plot.y(drawn[0][1]), r=2.4, class_=f"birth-{line.kind}")
    mark_onset(plot, watch)
    at = sorted(set(looks))
    edges = boundaries(at)
    for step, left, right in zip(at, edges, edges[1:], strict=False):
        here = [(line.name, value) for line in panel.lines for own, value in line.points if own == step]
        plot.hit(left, right, "\n".join([f"step {step:,}", *(f"{name}: {number(value)}" for name, value in here[:12])]))
    ends = "; ".join(f"{line.name} {number(line.points[-1][1])} at step {line.points[-1][0]:,}" for line in panel.lines)
    return plot.render(f"{panel.label} over steps. {ends}. {watch.sentence} Arrow keys read the steps.", "birth")
