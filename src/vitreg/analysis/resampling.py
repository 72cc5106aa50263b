"""Do the images agree? A detector asked again on resamples of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vitreg.analysis.norms import NormHistogram
from vitreg.analysis.outliers import Detector

RESAMPLES = 100
MIN_CONFIDENCE = 0.8
MIN_IMAGES_FOR_CONFIDENCE = 4


def weights(groups: int, seed: int) -> np.ndarray:
    """How often each group of images is in each resample, int64 [RESAMPLES, groups]."""
    return np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)


def bootstrap(histograms: np.ndarray, side: str, detector: Detector, seed: int = 0) -> float:
    """Share of resamples in which at least one of the layers shows outliers on this side.

    Args:
        histograms: [G, layers, BINS] norm counts of groups of images; empty groups are left out.
    """
    filled = histograms[histograms.sum(axis=(1, 2)) > 0]
    used = np.flatnonzero(filled.any(axis=(0, 1)))
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
    occupied = filled[:, :, first:last].astype(np.float64)  # exact, and a product of floats is the fast one

    def drawn(weight: np.ndarray) -> Iterator[NormHistogram]:
        for counts in np.tensordot(weight.astype(np.float64), occupied, axes=1):
            pooled = np.zeros(filled.shape[2], np.int64)
            pooled[first:last] = counts
            yield NormHistogram(pooled)

    hits = 0
    for weight in weights(len(filled), seed):
        hits += any(detector(pooled, side).found for pooled in drawn(weight))  # type: ignore[arg-type]
    return hits / RESAMPLES
