"""Ratios of sums over images with bootstrap intervals; two models on the same images are resampled together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

RESAMPLES = 1000
FEWEST = 4  # images below which an interval would say nothing
LOW, HIGH = 0.025, 0.975


@dataclass(frozen=True)
class Sums:
    """One quantity on n images: its value is the sum of the numerators over the sum of the denominators.

    A mean has denominators of 1; an image that says nothing has both 0.
    """

    numerators: Float64[np.ndarray, " n"]
    denominators: Float64[np.ndarray, " n"]

    @property
    def value(self) -> float:
        """The ratio; NaN where no image says anything."""
        below = float(self.denominators.sum())
        return float(self.numerators.sum()) / below if below else math.nan

    def over(self, weights: Int64[np.ndarray, "R n"]) -> Float64[np.ndarray, " R"]:
        """Return the value of each resample; NaN for one that holds no image that says anything."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return (weights @ self.numerators) / (weights @ self.denominators)


def resamples(images: int, count: int = RESAMPLES, seed: int = 0) -> Int64[np.ndarray, "R n"]:
    """Return how often each image is in each resample."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=count)


def interval(values: Float64[np.ndarray, " R"]) -> tuple[float, float] | None:
    """Return the interval that holds 95 % of the resamples; None where most of them have no value."""
    known = values[np.isfinite(values)]
    if 2 * len(known) <= len(values):
        return None
    low, high = np.quantile(known, (LOW, HIGH))
    return float(low), float(high)


def paired_change(
    before: Sums, after: Sums, weights: Int64[np.ndarray, "R n"]
) -> tuple[float, tuple[float, float] | None]:
    """Return by how much a quantity changed, and the interval, where both are resampled with the same images."""
    return after.value - before.value, interval(after.over(weights) - before.over(weights))
