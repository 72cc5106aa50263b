"""Token norms, counted: a code of two bytes per norm, and histograms that answer questions about millions of them.

Norms are L2, of block outputs before the final norm (after it a factor of 11.3 becomes 1.08), in fp32. They
are kept as logarithms in steps of 1/2048 octave (0.03 %), and counted in bins of 1/128 octave (0.5 %). Thresholds lie on
bin edges, so counting by bins gives exactly what looking at every token again would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

LOWEST_OCTAVE, OCTAVES = -10, 32
STEPS_PER_OCTAVE, BINS_PER_OCTAVE = 2048, 128
BINS = OCTAVES * BINS_PER_OCTAVE
_STEPS_PER_BIN = STEPS_PER_OCTAVE // BINS_PER_OCTAVE


def encode(norms: np.ndarray) -> np.ndarray:
    """Norms as uint16 logarithmic codes, any shape; relative error below 0.02 %, range 2^-10 to 2^22.

    Raises:
        FloatingPointError: for NaN or infinite norms, which mean the forward pass overflowed.
    """
    if not np.isfinite(norms).all():
        raise FloatingPointError("token norms are not finite")
    octaves = np.log2(np.maximum(norms, 2.0**LOWEST_OCTAVE)) - LOWEST_OCTAVE
    return np.clip(octaves * STEPS_PER_OCTAVE, 0, 2**16 - 1).astype(np.uint16)


def decode(codes: np.ndarray) -> np.ndarray:
    """Codes back to norms, float32."""
    return np.exp2((codes.astype(np.float64) + 0.5) / STEPS_PER_OCTAVE + LOWEST_OCTAVE).astype(np.float32)


def to_bin(codes: np.ndarray) -> np.ndarray:
    """The histogram bin of each code."""
    return codes // _STEPS_PER_BIN


def edges() -> np.ndarray:
    """The BINS + 1 edges of the histogram, as norms."""
    return np.exp2(np.arange(BINS + 1) / BINS_PER_OCTAVE + LOWEST_OCTAVE)


def edge_index(threshold: float) -> int:
    """The index of the bin edge nearest to a norm: bins from there on lie above it."""
    position = (np.log2(max(threshold, 2.0**LOWEST_OCTAVE)) - LOWEST_OCTAVE) * BINS_PER_OCTAVE
    return int(np.clip(np.rint(position), 0, BINS))


@dataclass(frozen=True)
class NormHistogram:
    """Counts [BINS] of norms on the project's fixed logarithmic bins."""

    counts: np.ndarray

    @classmethod
    def of(cls, norms: np.ndarray) -> NormHistogram:
        """Count norms of any shape."""
        return cls(np.bincount(to_bin(encode(np.asarray(norms, dtype=np.float64))).ravel(), minlength=BINS))

    @cached_property
    def total(self) -> int:
        """Number of norms."""
        return int(self.counts.sum())

    @cached_property
    def _cumulative(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.counts)])

    def quantile(self, q: float) -> float:
        """The norm below which a share q lies, interpolated within its bin. NaN if empty."""
        if not self.total:
            return float("nan")
        target = q * self.total
        index = int(np.clip(np.searchsorted(self._cumulative, target, side="left") - 1, 0, BINS - 1))
        inside = (target - self._cumulative[index]) / max(int(self.counts[index]), 1)
        return float(np.exp2((index + np.clip(inside, 0, 1)) / BINS_PER_OCTAVE + LOWEST_OCTAVE))

    @cached_property
    def median(self) -> float:
        """The median norm."""
        return self.quantile(0.5)

    def absolute_deviation(self, centre: float) -> float:
        """Median absolute deviation from a centre."""
        middles = np.sqrt(edges()[:-1] * edges()[1:])
        order = np.argsort(np.abs(middles - centre))
        cumulative = np.cumsum(self.counts[order])
        return float(np.abs(middles - centre)[order][np.searchsorted(cumulative, self.total / 2)])

    def split(self, threshold: float, side: Literal["high", "low"]) -> tuple[NormHistogram, NormHistogram]:
        """Return (inside, outside) at the bin edge nearest to the threshold."""
        index = edge_index(threshold)
        below, above = self.counts.copy(), self.counts.copy()
        below[index:] = 0
        above[:index] = 0
        low, high = NormHistogram(below), NormHistogram(above)
        return (low, high) if side == "high" else (high, low)

    def edge_near(self, threshold: float) -> float:
        """The bin edge nearest to a norm."""
        return float(np.exp2(edge_index(threshold) / BINS_PER_OCTAVE + LOWEST_OCTAVE))

    def coarse_log(self, merge: int = 4) -> tuple[np.ndarray, np.ndarray]:
        """Occupied range as (natural log of bin centres, counts), `merge` bins at a time: what a density fit needs."""
        counts = self.counts.reshape(-1, merge).sum(1)
        used = np.flatnonzero(counts)
        first, last = (used[0], used[-1]) if len(used) else (0, 0)
        centres = (np.arange(first, last + 1) + 0.5) * merge / BINS_PER_OCTAVE + LOWEST_OCTAVE
        return centres * np.log(2), counts[first : last + 1].astype(np.float64)
