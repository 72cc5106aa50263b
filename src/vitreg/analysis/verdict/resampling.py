"""Do the images agree? The detector runs again on resamples of them."""

from __future__ import annotations

import numpy as np

from vitreg.analysis.norms import NormHistogram
from vitreg.analysis.outliers import Detector, Side

RESAMPLES = 100
MIN_CONFIDENCE = 0.8
MIN_IMAGES_FOR_CONFIDENCE = 4


def weights(groups: int, resamples: int, seed: int) -> np.ndarray:
    """How often each group of images is in each resample, int64 [resamples, groups]."""
    return np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=resamples)


class Pools:
    """The norms of groups of images, pooled with weights.

    Args:
        histograms: [G, BINS] norm counts.
    """

    def __init__(self, histograms: np.ndarray) -> None:
        used = np.flatnonzero(histograms.any(axis=0))
        self._range = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
        self._bins = histograms.shape[1]
        # Empty bins are left out. These counts are exact as floats, whose product is faster.
        self._occupied = histograms[:, self._range].astype(np.float64)

    def __call__(self, weight: np.ndarray) -> NormHistogram:
        """Pool all norms; each group counts as often as its weight [G]."""
        pooled = np.zeros(self._bins, np.int64)
        pooled[self._range] = weight.astype(np.float64) @ self._occupied
        return NormHistogram(pooled)


def bootstrap(
    histograms: np.ndarray, side: Side, detector: Detector, seed: int = 0, resamples: int | None = None
) -> float:
    """Share of resamples in which at least one of the layers shows outliers on this side.

    Args:
        histograms: [G, layers, BINS] norm counts of groups of images; empty groups are left out.
        resamples: how many; `RESAMPLES` if None.
    """
    count = RESAMPLES if resamples is None else resamples
    filled = histograms[histograms.sum(axis=(1, 2)) > 0]
    layers = [Pools(filled[:, layer]) for layer in range(filled.shape[1])]
    return (
        sum(any(detector(pool(weight), side).found for pool in layers) for weight in weights(len(filled), count, seed))
        / count
    )
