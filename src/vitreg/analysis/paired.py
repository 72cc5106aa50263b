"""Ratios of sums over images with bootstrap intervals; two models on the same images are resampled together.

Where a bootstrap degenerates, as for 0 outliers in all images, counts of tokens have an interval by `tokens_interval`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from vitreg.analysis.intervals import paired_difference_of, wilson

RESAMPLES = 1000
FEWEST = 4  # images below which an interval would say nothing
LOW, HIGH = 0.025, 0.975


@dataclass(frozen=True)
class Sums:
    """One quantity on n images: its value is the sum of the numerators over the sum of the denominators.

    A mean has denominators of 1; an image that says nothing has both 0. With a second axis it is the mean of the ratios of
    several classes, without those that no image says anything of.
    """

    numerators: Float64[np.ndarray, "n *C"]
    denominators: Float64[np.ndarray, "n *C"]

    @property
    def value(self) -> float:
        """The ratio; NaN where no image says anything."""
        return float(_mean_ratio(self.numerators.sum(0)[None], self.denominators.sum(0)[None])[0])

    def over(self, weights: Int64[np.ndarray, "R n"]) -> Float64[np.ndarray, " R"]:
        """Return the value of each resample; NaN for one that holds no image that says anything."""
        return _mean_ratio(weights @ self.numerators, weights @ self.denominators)


def _mean_ratio(above: Float64[np.ndarray, "R *C"], below: Float64[np.ndarray, "R *C"]) -> Float64[np.ndarray, " R"]:
    """Return the ratios, or of several classes their mean over those with a denominator."""
    known = below > 0
    ratios = np.divide(above, below, out=np.full(above.shape, math.nan), where=known)
    if ratios.ndim == 1:
        return ratios
    count = known.sum(1)
    total = np.where(known, ratios, 0.0).sum(1)
    return np.divide(total, count, out=np.full(len(count), math.nan), where=count > 0)


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


def tokens_interval(sums: Sums, like: Sums, weights: Int64[np.ndarray, "R n"]) -> tuple[float, float]:
    """Return Wilson's interval of a share of tokens, for shares whose bootstrap is a point: none or all of them, say.

    Tokens of an image are not independent. So they count as fewer, by the factor by which the bootstrap of another model on
    the same images is wider than independent tokens would be; where that says nothing, all count.

    Args:
        sums: tokens that count, of how many.
        like: of the other model.
    """
    count = effective_tokens(like, weights)
    return wilson(count * sums.value, count)


def tokens_difference(before: Sums, after: Sums, weights: Int64[np.ndarray, "R n"]) -> tuple[float, float]:
    """Return an interval of a change that is equal in all resamples: that of Bonett and Price, of as many tokens."""
    count, change = effective_tokens(before, weights), after.value - before.value
    return paired_difference_of(count * max(change, 0.0), count * max(-change, 0.0), count)


def effective_tokens(sums: Sums, weights: Int64[np.ndarray, "R n"]) -> float:
    """Return the number of independent tokens whose share would vary as much as it does between resamples of the images."""
    count, share = float(sums.denominators.sum()), sums.value
    spread = float(np.nanvar(sums.over(weights)))
    return count if not spread else min(count, max(1.0, share * (1 - share) / spread))
