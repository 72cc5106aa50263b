"""Token norms as integer codes, and histograms of millions of them.

Norms are L2, of block outputs before the final norm (after it a factor of 11.3 becomes 1.08), in fp32. They are stored
as logarithms in steps of 1/2048 octave (0.03 %) and counted in bins of 1/128 octave (0.5 %), over the whole range of
float32: a model with features a million times larger gets the same answer. Thresholds lie on bin edges, so counts by
bin are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import numpy as np

# From below the smallest float32 (2^-149) to above the largest (2^128). Code 0 is the norm 0 and nothing else.
LOWEST_OCTAVE, OCTAVES = -150, 278
STEPS_PER_OCTAVE, BINS_PER_OCTAVE = 2048, 128
BINS = OCTAVES * BINS_PER_OCTAVE
_STEPS_PER_BIN = STEPS_PER_OCTAVE // BINS_PER_OCTAVE
SMALLEST_NORM = 2.0**-149  # above 0, in float32
LARGEST_CODE = OCTAVES * STEPS_PER_OCTAVE - 1
REACH = 16  # octaves from the median; norms further away are drawn and fitted at this distance


def encode(norms: np.ndarray) -> np.ndarray:
    """Norms as int32 logarithmic codes, any shape; relative error below 0.02 %, 0 for a norm of 0.

    Raises:
        FloatingPointError: for NaN or infinite norms: the forward pass overflowed.
    """
    if not np.isfinite(norms).all():
        raise FloatingPointError("token norms are not finite")
    octaves = np.log2(np.maximum(norms, 2.0**LOWEST_OCTAVE, dtype=np.float64)) - LOWEST_OCTAVE
    return np.clip(octaves * STEPS_PER_OCTAVE, 0, LARGEST_CODE).astype(np.int32)


def decode(codes: np.ndarray) -> np.ndarray:
    """Codes back to norms, float32 (whose own steps are wider than ours below 2^-126)."""
    norms = np.exp2((codes.astype(np.float64) + 0.5) / STEPS_PER_OCTAVE + LOWEST_OCTAVE)
    return np.where(codes > 0, norms, 0.0).astype(np.float32)


def pack(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes [..., N] in two bytes each: (base int32 [...], offset uint16 [..., N]).

    Sixteen bits span 32 octaves: a norm 2^32 times below the largest of its row becomes 0.
    """
    base = np.maximum(codes.max(-1) - (2**16 - 1), 0)
    return base, np.maximum(codes - base[..., None], 0).astype(np.uint16)


def unpack(base: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Undo `pack`: codes int32 [..., N]."""
    return np.where(offsets > 0, offsets + base[..., None], 0).astype(np.int32)


def to_bin(codes: np.ndarray) -> np.ndarray:
    """The histogram bin of each code."""
    return codes // _STEPS_PER_BIN


@cache
def edges() -> np.ndarray:
    """The BINS + 1 edges of the histogram, as norms; read-only."""
    found = np.exp2(np.arange(BINS + 1) / BINS_PER_OCTAVE + LOWEST_OCTAVE)
    found.flags.writeable = False
    return found


def edge_index(threshold: float) -> int:
    """The index of the bin edge nearest to a norm; bins from this index on lie above it."""
    position = (np.log2(max(threshold, 2.0**LOWEST_OCTAVE)) - LOWEST_OCTAVE) * BINS_PER_OCTAVE
    return min(max(round(float(position)), 0), BINS)


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
        return np.concatenate([[0.0], np.cumsum(self.counts)])  # float64, as what is sought, else each search casts it

    def quantile(self, q: float) -> float:
        """The norm below which a share q lies, interpolated within its bin. NaN if empty."""
        if not self.total:
            return float("nan")
        target = q * self.total
        index = min(max(int(self._cumulative.searchsorted(target)) - 1, 0), BINS - 1)
        inside = float(target - self._cumulative[index]) / max(int(self.counts[index]), 1)
        return float(np.exp2((index + min(max(inside, 0.0), 1.0)) / BINS_PER_OCTAVE + LOWEST_OCTAVE))

    @cached_property
    def median(self) -> float:
        """The median norm."""
        return self.quantile(0.5)

    def absolute_deviation(self, centre: float) -> float:
        """Median absolute deviation from a centre. NaN if empty."""
        if not self.total:
            return float("nan")
        used = np.flatnonzero(self.counts)
        deviations = np.abs(np.exp2((used + 0.5) / BINS_PER_OCTAVE + LOWEST_OCTAVE) - centre)
        order = np.argsort(deviations)
        return float(deviations[order][np.searchsorted(np.cumsum(self.counts[used][order]), self.total / 2)])

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

    def coarse(self, merge: int) -> tuple[int, np.ndarray]:
        """The occupied range, `merge` bins at a time: (number of its first coarse bin, counts).

        Norms more than `REACH` octaves from the median (0 among them) are counted in the last bin on their side.
        """
        counts = self.counts.reshape(-1, merge).sum(1)
        used = np.flatnonzero(counts)
        if not len(used):
            return 0, counts[:1]
        middle = edge_index(self.median) // merge
        reach = REACH * BINS_PER_OCTAVE // merge
        first, last = max(int(used[0]), middle - reach), min(int(used[-1]), middle + reach)
        kept = counts[first : last + 1].copy()
        kept[0] += counts[:first].sum()
        kept[-1] += counts[last + 1 :].sum()
        return first, kept

    def coarse_log(self, merge: int = 4) -> tuple[np.ndarray, np.ndarray]:
        """The occupied range as (natural log of bin centres, counts), `merge` bins at a time, for a density fit."""
        first, counts = self.coarse(merge)
        centres = (np.arange(first, first + len(counts)) + 0.5) * merge / BINS_PER_OCTAVE + LOWEST_OCTAVE
        return centres * np.log(2), counts.astype(np.float64)
