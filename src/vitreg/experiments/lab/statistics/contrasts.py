"""Differences between groups of runs, with intervals over seeds: Welch's, the exact permutation test, and Holm's correction.

Why Welch: of 4 against 4 runs an exact test has no p below 2/70, which no correction for a table of many rows would let
through, however large the effect. Welch's interval asks for values that are about normal, so norms and errors, whose spread
grows with them, are compared by their logarithms, and the exact test stands beside it as a check that asks for nothing.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

MOST_SPLITS = 200_000
"""Divisions of the runs into two groups that are counted at most."""


ROUNDED = 1e-9
"""Spread, over the largest value, that is no spread but rounding."""


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of the means of groups, with its 95 % interval and the p of "it is 0"; None where nothing shows its spread."""

    value: float
    low: float | None
    high: float | None
    p: float | None


def contrast(groups: Sequence[Sequence[float]], weights: Sequence[float], rounding: float = 0.0) -> Contrast:
    """Return the weighted sum of the groups' means; groups may spread differently (Welch 1947, Satterthwaite 1946).

    >>> value = sum(w * mean(x) for w, x in zip(weights, groups))
    >>> parts = [w**2 * (var(x, ddof=1) + rounding**2 / 12) / len(x) for w, x in zip(weights, groups)]
    >>> df = sum(parts) ** 2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, groups))
    >>> low, high = value -+ t(0.975, df) * sqrt(sum(parts))

    Args:
        groups: of independent values, at least one each.
        weights: 1 and -1 for a difference of two groups.
        rounding: distance of the values that can be observed, such as steps between two evaluations.
    """
    from scipy.stats import t

    value = math.fsum(w * float(np.mean(x)) for w, x in zip(weights, groups, strict=True))
    if any(len(x) < 2 for x in groups):
        return Contrast(value, None, None, None)
    parts = [
        w**2 * (float(np.var(x, ddof=1)) + rounding**2 / 12) / len(x) for w, x in zip(weights, groups, strict=True)
    ]
    total = math.fsum(parts)
    if math.sqrt(total) <= ROUNDED * max(abs(float(each)) for x in groups for each in x):
        return Contrast(value, None, None, None)
    df = total**2 / math.fsum(part**2 / (len(x) - 1) for part, x in zip(parts, groups, strict=True))
    error = math.sqrt(total)
    half = float(t.ppf(0.975, df)) * error
    return Contrast(value, value - half, value + half, float(2 * t.sf(abs(value) / error, df)))


def exact_p(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return the share of all divisions of the values into two such groups whose means lie as far apart as these, or farther.

    None without values in both, or where there are too many divisions to count.
    """
    if not one or not other or math.comb(len(one) + len(other), len(one)) > MOST_SPLITS:
        return None
    values = np.asarray([*one, *other], dtype=np.float64)
    first = _splits(len(one), len(values))
    gaps = np.abs((first @ values) / len(one) - (values.sum() - first @ values) / len(other))
    seen = abs(float(np.mean(one) - np.mean(other)))
    return float(np.mean(gaps >= seen * (1 - 1e-9) - 1e-12))


@functools.lru_cache(maxsize=8)
def _splits(size: int, count: int) -> Bool[np.ndarray, "S n"]:
    """Return every choice of `size` of `count` values."""
    chosen = np.array(list(itertools.combinations(range(count), size)))
    found = np.zeros((len(chosen), count), dtype=bool)
    np.put_along_axis(found, chosen, True, axis=1)
    return found


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected for there being several of them (Holm 1979); None stays, and does not count.

    The chance that any of those below 0.05 is a difference where there is none is then at most 0.05.
    """
    known = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        adjusted[place] = least
    return adjusted


def mean_interval(values: Sequence[float], rounding: float = 0.0) -> Contrast:
    """Return the mean of values with its interval (Student's t)."""
    return contrast([values], [1.0], rounding)
