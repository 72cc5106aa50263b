"""Durations as people write them, and schedules as pure functions of the step, so resuming is exact.

The learning-rate curves are those of the official code of DINOv2, DeiT-III and OpenCLIP. They differ in when the
warm-up reaches the peak (on its last step or after it) and in where the cosine begins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from vitreg.errors import UserError, unknown

Unit = Literal["steps", "epochs", "examples", "percent"]
RateCurve = Literal["dinov2", "deit", "clip"]

_DURATION = re.compile(
    r"(-?)(\d+\.?\d*|\.\d+)(e[+-]?\d{1,2})?\s*(%|[a-z]*)\s*(.*)"
)  # sign, number, exponent, word, rest
_MULTIPLES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_WORDS: dict[Unit, tuple[str, ...]] = {
    "steps": ("", "step", "steps"),
    "epochs": ("ep", "epoch", "epochs"),
    "examples": ("example", "examples", "images", "samples"),
    "percent": ("%", "percent"),
}
_UNITS: dict[str, Unit] = {word: unit for unit, words in _WORDS.items() for word in words}


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of training in its original unit, as an exact fraction: 1.1 epochs of 10 steps are 11 steps, not 12."""

    amount: Fraction
    unit: Unit

    def steps(self, *, epoch_steps: int, batch: int, total: int | None = None) -> int:
        """Return the duration in optimiser steps, rounded up; 0 only for a duration of 0.

        Args:
            epoch_steps: optimiser steps of one epoch.
            batch: samples per optimiser step, over all processes.
            total: steps of the whole run; None while the length of the run itself is computed.
        Raises:
            UserError: for a percentage without `total`.
        """
        if self.unit == "percent":
            if total is None:
                raise UserError(
                    f"the length of a run cannot be {float(self.amount):g}% of itself; "
                    "say '5000 steps', '300 epochs' or '1.28M examples'."
                )
            return math.ceil(self.amount * total / 100)
        each = {"steps": Fraction(1), "epochs": Fraction(epoch_steps), "examples": Fraction(1, batch)}
        return math.ceil(self.amount * each[self.unit])


def parse_duration(text: str) -> Duration:
    """Read "5000 steps", "300 epochs", "90ep", "0.5 epochs", "1.28M examples", "10%", or "5000", which is steps.

    Raises:
        UserError: if it is no number with a known unit, is negative, more than 100 %, or a broken number of steps.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    if not found:
        raise UserError(f"'{text}' is no duration; say '5000 steps', '300 epochs', '1.28M examples' or '10%'.")
    sign, number, exponent, word, rest = found.groups()
    multiple = _MULTIPLES.get(word)
    word = f"{word} {rest}".strip() if multiple is None else rest
    if word not in _UNITS:
        raise unknown("unit of time", word, [name for name in _UNITS if name], f"the duration '{text}'")
    if sign:
        raise UserError(f"a duration cannot be negative, '{text}' is; say '0 steps' for none.")
    amount, unit = Fraction(number + (exponent or "")) * (multiple or 1), _UNITS[word]
    if unit == "steps" and amount.denominator != 1:
        raise UserError(f"'{text}' is no whole number of steps; a unit may be missing, as in '{number} epochs'.")
    if unit == "percent" and amount > 100:
        raise UserError(f"'{text}' is longer than the run it is a share of.")
    return Duration(amount, unit)


def linear(step: int, start: float, end: float, steps: int) -> float:
    """Interpolate linearly from `start` at step 0 to `end` at step `steps`; constant after.

    The official code spans N steps whose last one has the end value, as numpy's linspace does: that is `steps` = N - 1.
    DINOv2's teacher temperature over 37 500 steps is `linear(step, 0.04, 0.07, 37_499)`.
    """
    if step >= steps:
        return end
    return start + (end - start) * step / steps


def cosine(step: int, start: float, end: float, steps: int) -> float:
    """Follow half a cosine from `start` at step 0 to `end` at step `steps`; constant after.

    DINOv2's weight decay and teacher momentum, with the length of the run as `steps`.
    """
    if step >= steps:
        return end
    return start + (end - start) * (1 - math.cos(math.pi * step / steps)) / 2


def warmup_cosine(
    step: int,
    *,
    peak: float,
    end: float,
    warmup: int,
    total: int,
    warmup_start: float = 0.0,
    curve: RateCurve = "dinov2",
) -> float:
    """Rise in a straight line for `warmup` steps, then fall along half a cosine until step `total`.

    Args:
        step: optimiser steps done before this one.
        peak, end: rates after the warm-up and from step `total` on.
        warmup, total: in optimiser steps.
        warmup_start: rate from which the warm-up rises.
        curve: "dinov2" starts at `warmup_start` and is at the peak on the last warm-up step and on the first cosine
            step. "deit" (timm) ends its warm-up one step later, and its cosine runs from step 0, so it is below the
            peak by then. "clip" reaches the peak on the last warm-up step and starts above `warmup_start`.
    """
    if step < warmup:
        if curve == "clip":
            return linear(step + 1, warmup_start, peak, warmup)
        return linear(step, warmup_start, peak, max(1, warmup - 1) if curve == "dinov2" else warmup)
    before = 0 if curve == "deit" else warmup
    return cosine(step - before, peak, end, total - before)


def step_of_official_deit(step: int, epoch_steps: int) -> int:
    """Return the step whose rate official DeiT uses at `step`: its schedule moves once per epoch, and one epoch late.

    The official code passes the number of the finished epoch, so epochs 0 and 1 both run at the first value.
    """
    return max(0, step // epoch_steps - 1) * epoch_steps


_SPELLED = re.compile(r"\s*([A-Za-z_]\w*)\s*<\s*(\S+)\s*")


@dataclass(frozen=True, slots=True)
class Until:
    """A number of the evaluations, the bound below which it must fall, and how many steps follow."""

    metric: str
    bound: float
    more: int

    def end(self, records: Iterable[Mapping[str, Any]]) -> int | None:
        """Return the step at which the run ends by its records; None if the bound has not been reached.

        Raises:
            UserError: if an evaluation lacks the number.
        """
        for record in sorted((each for each in records if each["kind"] == "evaluation"), key=lambda each: each["step"]):
            if self.metric not in record:
                known = [name for name in record if name not in ("kind", "step")]
                raise unknown("number", self.metric, known, "the evaluations of this run")
            if record[self.metric] is not None and record[self.metric] < self.bound:
                return int(record["step"]) + self.more
        return None


def until_of(text: str | None, more: str, *, epoch_steps: int, batch: int, total: int) -> Until | None:
    """Read "val_asked < 0.01", and how long the run goes on afterwards.

    Raises:
        UserError: for other words.
    """
    if text is None:
        return None
    found = _SPELLED.fullmatch(text)
    try:
        bound = float(found[2]) if found else None
    except ValueError:
        bound = None
    if found is None or bound is None or bound != bound:
        raise UserError(
            f"run.until is '{text}'; it is a number of the evaluations and a bound, as in 'val_loss < 0.01'."
        )
    return Until(found[1], bound, parse_duration(more).steps(epoch_steps=epoch_steps, batch=batch, total=total))
