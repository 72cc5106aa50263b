"""An evaluation in words: what was measured, the number with its interval, and the controls beside it."""

from __future__ import annotations

from typing import Literal

from vitreg.report.words import MISSING, PERCENT, count, number
from vitreg.results import Cell, EvalResult

TITLES = {
    "knn": "Nearest neighbours",
    "linear": "Linear classifier",
    "logistic": "Logistic regression",
    "segmentation": "Segmentation",
    "depth": "Depth",
    "zeroshot": "Zero-shot classification",
    "retrieval": "Retrieval",
    "tokens": "What one token knows",
    "position": "Where a patch lies",
    "pixels": "What a patch shows",
    "controls": "Tokens replaced",
    "complexity": "Cost of registers",
}
MEASURED = {
    "knn": "The vote of the nearest training images is right for {value} of the {judged}",
    "linear": "A linear classifier on the features is right for {value} of the {judged}",
    "logistic": "Logistic regression on the features is right for {value} of the {judged}",
    "segmentation": "A linear layer on the patch tokens tells the classes of pixels with a mean IoU of {value}",
    "depth": "A linear layer on the tokens tells distances with an RMSE of {value}",
    "zeroshot": "The nearest sentence names the class of {value} of the {judged}",
    "retrieval": "Between images and captions the mean recall at 1, 5 and 10 is {value}",
    "tokens": "One token ({name}) tells the class of {value} of the {judged}",
    "position": "A linear layer tells from the token of a patch where it lies, for {value} of them",
    "pixels": "A linear layer restores the pixels of a patch from its token with an error of {value}",
    "controls": "With no token replaced, a linear classifier is right for {value} of the {judged}",
    "complexity": "{registers} more multiply-adds: {value}",
}
"""The headline of each task as a sentence."""
OF_OTHER_METRICS = "{title} scores {value} ({name})"
"""For sets whose metric is not the share of right answers."""
Standing = Literal["above", "level", "below", "alone"]


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
    pattern = MEASURED.get(result.task, OF_OTHER_METRICS)
    if "{judged}" in pattern and result.headline not in result.intervals:
        pattern = OF_OTHER_METRICS
    registers = result.headline.rpartition("_")[2]
    words = pattern.format(
        value=measure(value, result.units.get(result.headline, "")),
        judged=_judged(result),
        name=result.headline.replace("_", " "),
        title=title(result.task),
        registers=f"{registers} registers cost" if registers != "1" else "1 register costs",
    )
    found = interval(result, result.headline)
    return words + (f" (95{PERCENT} interval {found})" if found else "") + "."


def title(task: str) -> str:
    """A task's name on a page."""
    return TITLES.get(task, task)


def _judged(result: EvalResult) -> str:
    images = result.data.counts.get("test")
    return "test images" if images is None else count(images, "test image")


def controls(result: EvalResult) -> str:
    """The controls in a sentence; empty without any."""
    unit = result.units.get(result.headline, "")
    found = ", ".join(f"{name} {measure(value, unit)}" for name, value in result.controls.items())
    return found and f"Controls that must be worse: {found}."


def standing(result: EvalResult) -> Standing:
    """Compare the number with its controls: above all with its whole interval, level with one, below one, or alone."""
    if not result.controls or result.headline not in result.metrics:
        return "alone"
    if not result.beats_controls:
        return "below"
    ends = result.intervals.get(result.headline)
    if ends is None:
        return "above"
    best = (max if result.larger_is_better else min)(result.controls.values())
    clear = ends[0] > best if result.larger_is_better else ends[1] < best
    return "above" if clear else "level"


def verdict(result: EvalResult) -> str:
    """The comparison with the controls, in words."""
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
