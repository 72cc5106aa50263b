"""Small inline SVG: escaped elements, axes with ticks, and a plot frame for the charts of the page.

Colours are CSS classes of the page, so a chart follows light and dark. This module knows nothing about the data.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from vitreg.quantities import short
from vitreg.report.ranges import usable

Kind = Literal["linear", "log", "sqrt"]
LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 30.0, 48.0  # margins of a plot in pixels


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """Build one element. Text and attribute values are escaped; `class_` is class, other underscores become dashes."""
    written = Markup("").join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), _plain(value))
        for name, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), written, inside)


def _plain(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from values to pixels. Values outside are clamped to its ends: a zero on a log axis sits on the edge.

    A range that cannot be drawn, such as a single value or NaN, becomes the nearest drawable one (`ranges`).
    """

    low: float
    high: float
    start: float
    stop: float
    kind: Kind = "linear"

    def __post_init__(self) -> None:
        low, high = usable(self.low, self.high, log=self.kind == "log")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; NaN lies at the low end."""
        value = self.low if math.isnan(value) else min(max(value, self.low), self.high)
        a, b, v = (self._bend(x) for x in (self.low, self.high, value))
        return self.start + (self.stop - self.start) * ((v - a) / (b - a) if b > a else 0.5)

    def _bend(self, value: float) -> float:
        if self.kind == "log":
            return math.log10(value)
        return math.sqrt(max(value, 0.0)) if self.kind == "sqrt" else value

    def ticks(self, target: int = 5) -> list[float]:
        """Return about `target` round values inside the axis."""
        if self.kind == "log":
            return self._log_ticks(target)
        if self.kind == "sqrt":
            return self._sqrt_ticks()
        return self._linear_ticks(target)

    def _linear_ticks(self, target: int) -> list[float]:
        raw = (self.high - self.low) / max(target, 1)
        magnitude = 10.0 ** math.floor(math.log10(raw))
        step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        ticks = [float(f"{i * step:.12g}") for i in range(first, last + 1)]
        ticks = [t for t in ticks if self.low <= t <= self.high]
        return ticks or self._linear_ticks(2 * target)

    def _log_ticks(self, target: int) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)):
            found = [f * 10.0**d for d in decades for f in factors]
            found = [t for t in found if self.low * 0.9999 <= t <= self.high * 1.0001]
            if len(found) >= min(target, 4):
                break
        if not found:  # a narrow range without a round number
            return self._linear_ticks(target)
        return found[:: math.ceil(len(found) / (target + 3))]

    def _sqrt_ticks(self) -> list[float]:
        # Powers of ten below the top, then the top itself rounded: evenly readable where a linear axis would crowd.
        top = 10.0 ** math.floor(math.log10(self.high)) if self.high > 0 else 1.0
        ticks = [0.0] + [t for t in (top / 100, top / 10, top, 3 * top, 5 * top) if t >= 1]
        return [t for t in ticks if self.low <= t <= self.high] or [self.low]


@dataclass
class Plot:
    """A chart under construction: axes, marks in drawing order, and areas with tooltips."""

    width: float
    height: float
    x: Axis
    y: Axis
    marks: list[Markup] = field(default_factory=list)
    hits: list[Markup] = field(default_factory=list)

    def add(self, tag: str, *children: str, **attributes: object) -> None:
        """Draw one element."""
        self.marks.append(element(tag, *children, **attributes))

    def text(self, x: float, y: float, words: str, class_: str = "label", anchor: str = "middle") -> None:
        """Write words with their baseline at (x, y) pixels."""
        self.add("text", words, x=float(x), y=float(y), class_=class_, text_anchor=anchor)

    def line(self, points: Iterable[tuple[float, float]], class_: str) -> None:
        """Draw a line through (x, y) values; values that are not finite are left out."""
        path = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in points if math.isfinite(b))
        if path:
            self.add("polyline", points=path, class_=class_)

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], class_: str) -> None:
        """Fill between two curves given as values."""
        there = [f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(xs, high, strict=True)]
        back = [f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(xs, low, strict=True)]
        self.add("polygon", points=" ".join(there + back[::-1]), class_=class_)

    def hit(self, x0: float, x1: float, tip: str) -> None:
        """Give the column between two values a tooltip."""
        left, right = sorted((self.x(x0), self.x(x1)))
        top = min(self.y.start, self.y.stop)
        tall = abs(self.y.stop - self.y.start)
        self.hits.append(element("rect", x=left, y=top, width=right - left, height=tall, class_="hit", data_tip=tip))

    def frame(
        self, x_label: str, y_label: str, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]]
    ) -> None:
        """Draw grid lines, ticks and axis labels with their units; call it before the marks."""
        bottom, left, right = self.y.start, self.x.start, self.x.stop
        for value, words in y_ticks:
            at = self.y(value)
            self.add("line", x1=left, x2=right, y1=at, y2=at, class_="grid")
            self.text(left - 8, at + 4, words, "tick", "end")
        for value, words in x_ticks:
            at = self.x(value)
            self.add("line", x1=at, x2=at, y1=bottom, y2=bottom + 5, class_="axis")
            self.text(at, bottom + 18, words, "tick")
        self.add("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis")
        self.text((left + right) / 2, bottom + 38, x_label, "axis-label")
        # The y label stands horizontally above the axis, which is easier to read.
        self.text(8, 14, y_label, "axis-label", "start")

    def render(self, alt: str, class_: str) -> Markup:
        """Return the SVG; `alt` says in words what the chart shows."""
        active = bool(self.hits)
        return element(
            "svg",
            *self.marks,
            *([element("g", *self.hits, class_="hits")] if active else []),
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            class_=f"chart {class_}",
            role="img",
            aria_label=alt,
            tabindex="0" if active else None,
        )


def framed(
    width: float,
    height: float,
    x: tuple[float, float],
    y: tuple[float, float],
    kinds: tuple[Kind, Kind],
    top: float = TOP,
) -> Plot:
    """Make an empty plot with the common margins; `x` and `y` are the ranges of values, `kinds` their scales."""
    return Plot(
        width,
        height,
        Axis(*x, start=LEFT, stop=width - RIGHT, kind=kinds[0]),
        Axis(*y, start=height - BOTTOM, stop=top, kind=kinds[1]),
    )


def labelled(values: Iterable[float], suffix: str = "") -> list[tuple[float, str]]:
    """Return ticks with short numbers, 10, 300, 1,000, with enough digits to be distinct."""
    ticks = list(values)
    written: list[str] = []
    for digits in range(3, 16):
        written = [short(v, digits) for v in ticks]
        if len(set(written)) == len(set(ticks)):
            break
    return [(v, text + suffix) for v, text in zip(ticks, written, strict=True)]


def png(pixels: np.ndarray) -> str:
    """A picture as a data URI; uint8 [rows, cols, 3], or 4 with opacity."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
