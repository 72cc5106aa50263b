"""Ranges of axes and colour scales that can be drawn for any data: empty, one value, zeros, 1e200, NaN.

Every chart and figure takes its ranges from here: a range is finite, ascending, wide enough to hold ticks, and above zero
where its scale is logarithmic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

LARGEST, SMALLEST = (
    1e100,
    1e-200,
)  # beyond, margins, sums, ratios of ends and distant ticks overflow, also inside matplotlib
NARROW = 1e-9  # relative width; below it there are too few floats for ticks

Range = tuple[float, float]


def usable(low: float, high: float, *, log: bool = False) -> Range:
    """Return the drawable range nearest to (low, high).

    Args:
        log: whether the scale is logarithmic, so that both ends must be above zero.
    """
    low, high = _finite(low), _finite(high)
    low, high = min(low, high), max(low, high)
    if log:
        if high < SMALLEST:
            return 0.1, 10.0  # no positive value: an empty axis
        low = max(low, SMALLEST) if low > 0 else high / 1000
        return (low / 1.05, high * 1.05) if high <= low * (1 + NARROW) else (low, high)
    if high - low <= max(NARROW * max(abs(low), abs(high)), SMALLEST):
        margin = 0.05 * max(abs(low), abs(high))
        return (low - margin, high + margin) if margin > SMALLEST else (-1.0, 1.0)
    return low, high


def positive_span(values: Iterable[float | None], *, room: float = 1.0) -> Range | None:
    """The range of the finite values above zero, `room` times wider at both ends; None if there are none."""
    kept = [v for v in values if v is not None and math.isfinite(v) and v > 0]
    return usable(min(kept) / room, min(max(kept), LARGEST) * room, log=True) if kept else None


def drawable(values: Iterable[float | None] | np.ndarray) -> np.ndarray:
    """The values for matplotlib, as float64: what is missing or not finite is NaN, a gap; the largest are clipped."""
    if not isinstance(values, np.ndarray):
        values = np.array([math.nan if v is None else v for v in values])
    found = values.astype(np.float64)
    return np.clip(np.where(np.isfinite(found), found, np.nan), -LARGEST, LARGEST)


def _finite(value: float) -> float:
    if math.isnan(value):
        return 0.0
    return min(max(value, -LARGEST), LARGEST)
