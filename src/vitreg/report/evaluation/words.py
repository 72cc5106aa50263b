"""An evaluation in words: what was measured, the number with its interval, and the controls beside it."""

from __future__ import annotations

from typing import Literal

from vitreg.report.words import MISSING, PERCENT, count, number
from vitreg.results import Cell, EvalPair, EvalResult

FILLED = {"value", "judged", "name", "title", "registers"}
"""What the sentence of a task may name in braces."""
SCORES = "{title} scores {value} ({name})"
"""Of tasks without a sentence of their own, and of sets whose metric is not the share of right answers."""
Standing = Literal["above", "level", "below", "alone"]
EITHER: dict[Standing, str] = {
    "above": "More than by chance", "level": "Not clearly more than by chance", "below": "No more than by chance",
    "alone": "No control",
}  # fmt: skip
"""Verdicts of tasks whose control is a comparison, and no test of the number."""


def measure(value: float | None, unit: str = "") -> str:
    """A number with its unit: 63.2 %, 0.412 m."""
    text = number(value)
    if text == MISSING or not unit:
        return text
    return f"{text}{PERCENT}" if unit == "%" else f"{text} {unit}"


def cell(value: Cell) -> str:
    """Format a cell of a record's table: numbers with three digits, a dash for a value that was not measured."""
    if isinstance(value, bool) or value is None:
        return MISSING if value is None else str(value)
    return number(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


def interval(result: EvalResult, name: str) -> str:
    """The 95 % interval of a metric; empty if it has none."""
    found = result.intervals.get(name)
    return "" if found is None else f"{number(found[0])} to {measure(found[1], result.units.get(name, '%'))}"


def sentence(result: EvalResult) -> str:
    """The sentence on what was measured, with the number and its interval."""
    value = result.metrics.get(result.headline)
    pattern = result.measured or SCORES
    if "{judged}" in pattern and result.headline not in result.intervals:
        pattern = SCORES
    registers = result.headline.rpartition("_")[2]
    words = pattern.format(
        value=measure(value, result.units.get(result.headline, "")),
        judged=_judged(result),
        name=result.headline.replace("_", " "),
        title=title(result),
        registers=f"{registers} registers cost" if registers != "1" else "1 register costs",
    )
    found = interval(result, result.headline)
    return words + (f" (95{PERCENT} interval {found})" if found else "") + "."


def title(result: EvalResult | EvalPair) -> str:
    """A task's name on a page."""
    return result.title or result.task


def _judged(result: EvalResult) -> str:
    images = result.data.counts.get("test")
    return "test images" if images is None else count(images, "test image")


def controls(result: EvalResult) -> str:
    """The controls in a sentence; empty without any."""
    unit = result.units.get(result.headline, "")
    found = ", ".join(f"{name} {measure(value, unit)}" for name, value in result.controls.items())
    return found and f"{'To compare with' if result.answers_either_way else 'Controls that must be worse'}: {found}."


def standing(result: EvalResult) -> Standing:
    """Compare the number with its controls: above all with its whole interval, level with one, below one, or alone."""
    if not result.controls or result.headline not in result.metrics:
        return "alone"
    if not result.beats_controls:
        return "below"
    ends = result.intervals.get(result.headline)
    if ends is None:  # nothing tells a change of either direction from chance
        return "level" if result.answers_either_way else "above"
    best = (max if result.larger_is_better else min)(result.controls.values())
    clear = ends[0] > best if result.larger_is_better else ends[1] < best
    return "above" if clear else "level"


def verdict(result: EvalResult) -> str:
    """The comparison with the controls, in words."""
    if result.answers_either_way:
        return EITHER[standing(result)]
    return {
        "above": "Better than its controls",
        "level": "Not clearly better than its controls",
        "below": "No better than its controls",
        "alone": "No control",
    }[standing(result)]


def setting(value: object) -> str:
    """Format a setting of the protocol: lists with commas, short numbers; a long list shows its ends."""
    if isinstance(value, list | tuple):
        words = [setting(each) for each in value]
        return ", ".join(words) if len(words) <= 8 else f"{words[0]} to {words[-1]} ({len(words)} values)"
    if isinstance(value, bool) or value is None:
        return {None: MISSING, True: "yes", False: "no"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
