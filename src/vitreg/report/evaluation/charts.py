"""The number of an evaluation and its controls as bars on one axis."""

from __future__ import annotations

import math

from markupsafe import Markup

from vitreg.report.evaluation.words import interval, measure
from vitreg.report.svg import RIGHT, Axis, Plot, labelled
from vitreg.report.words import middle
from vitreg.results import EvalResult

ROW, BAR, ABOVE = 46.0, 16.0, 8.0  # pixels: a row, its bar, the space above the first row
LETTERS = 7.2  # mean width of a letter in pixels, generous


def beside_controls(result: EvalResult, width: float) -> Markup | None:
    """Bars of the headline, with its interval, and of every control; None without controls or a finite number."""
    unit = result.units.get(result.headline, "")
    value = result.metrics.get(result.headline)
    rows = [
        (result.headline.replace("_", " "), value, "bar"),
        *((n, v, "bar-control") for n, v in result.controls.items()),
    ]
    known = [(name, v, class_) for name, v, class_ in rows if v is not None and math.isfinite(v)]
    if len(known) < 2 or value is None or not math.isfinite(value):
        return None
    ends = result.intervals.get(result.headline)
    reach = [0.0, *(v for _, v, _ in known), *(ends or ())]
    height = ABOVE + ROW * len(known) + 34
    bottom = ABOVE + ROW * len(known)
    plot = Plot(
        width, height, Axis(min(reach), max(reach) * 1.02 or 1.0, start=8.0, stop=width - RIGHT),
        Axis(0, len(known), start=bottom, stop=ABOVE),
    )  # fmt: skip
    for tick, words in labelled(plot.x.ticks(5 if width > 400 else 3), "" if unit != "%" else "\u00a0%"):
        at = plot.x(tick)
        plot.add("line", x1=at, x2=at, y1=ABOVE, y2=bottom, class_="grid")
        plot.text(at, bottom + 18, words, "tick", "start" if tick == plot.x.low else "middle")
    for place, (name, found, class_) in enumerate(known):
        top = ABOVE + ROW * place
        said = measure(found, unit)
        shown = middle(name, max(8, int(width / LETTERS) - len(said) - 4))
        plot.text(8, top + 15, f"{shown}  {said}", "label", "start")
        left, right = sorted((plot.x(0.0), plot.x(found)))
        plot.add("rect", x=left, y=top + 21, width=max(right - left, 1.0), height=BAR, class_=class_)
        if place == 0 and ends is not None:
            _whisker(plot, ends, top + 21 + BAR / 2)
    sure = interval(result, result.headline)
    told = [f"{name} {measure(v, unit)}" for name, v, _ in known]
    return plot.render(", ".join(told) + (f"; 95 % interval of the first {sure}" if sure else ""), "beside")


def _whisker(plot: Plot, ends: tuple[float, float], y: float) -> None:
    low, high = (plot.x(end) for end in ends)
    for x1, y1, x2, y2 in ((low, y, high, y), (low, y - 6, low, y + 6), (high, y - 6, high, y + 6)):
        plot.add("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="whisker")
