"""Prepares curves over the steps of a run for drawing: thins them for a screen, and turns norms into a grid of densities.

The page (`charts`) and the picture (`figures`) draw the same values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitreg.records import Curve, NormsMoment, RunRecord
from vitreg.report.ranges import SMALLEST, positive_span
from vitreg.report.words import countable, finite, trimmed


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a drawn line: mean, least and most of the values joined in it."""

    step: int
    value: float
    low: float
    high: float


def thinned(curve: Curve, most: int = 200) -> list[Point]:
    """Join neighbouring values until at most `most` points are left; missing values are left out."""
    pairs = [(s, v) for s, v in zip(curve.steps, curve.values, strict=True) if v is not None and math.isfinite(v)]
    size = max(1, -(-len(pairs) // most))
    groups = [pairs[at : at + size] for at in range(0, len(pairs), size)]
    return [
        Point(
            group[len(group) // 2][0],
            math.fsum(v / len(group) for _, v in group),  # divided first: a sum of the largest floats overflows
            min(v for _, v in group),
            max(v for _, v in group),
        )
        for group in groups
    ]


def best(curve: Curve) -> tuple[int, float] | None:
    """Return (step, value) of the best value, the earliest of equals; None if there is none. The best loss is the smallest."""
    pairs = [(s, v) for s, v in zip(curve.steps, curve.values, strict=True) if v is not None and math.isfinite(v)]
    choose = min if is_loss(curve.name) else max
    return choose(pairs, key=lambda pair: pair[1]) if pairs else None


def is_loss(name: str) -> bool:
    """Whether an evaluation is the validation loss or a term of it; all others are percentages."""
    return name.startswith("val_")


def named(curves: Sequence[Curve], name: str) -> Curve | None:
    """Return the curve of a name; None if it was not logged."""
    return next((curve for curve in curves if curve.name == name), None)


def outlier_share(run: RunRecord) -> Curve | None:
    """Share of outliers at the peak layer, in percent, at each look; None if the run was not watched."""
    if run.watched is None:
        return None
    moments = run.watched.moments
    return Curve(name="outliers", steps=[m.step for m in moments], values=[100 * m.outlier_fraction for m in moments])


def boundaries(steps: Sequence[int]) -> list[float]:
    """Return the borders between looks: the first step, the midpoints, the last step; one more than `steps`."""
    if len(steps) == 1:
        return [steps[0] - 0.5, steps[0] + 0.5]
    between = [(a + b) / 2 for a, b in itertools.pairwise(steps)]
    return [float(steps[0]), *between, float(steps[-1])]


def nearest_look(steps: Sequence[int], low: float, high: float, pixels: int) -> np.ndarray:
    """Return the nearest look for every column of pixels between two steps; -1 outside all looks.

    Returns:
        int [pixels].
    """
    edges = boundaries(steps)
    centres = low + (high - low) * (np.arange(pixels) + 0.5) / pixels
    at = np.searchsorted(edges, centres, side="right") - 1
    return np.where((at >= 0) & (at < len(steps)), at, -1)


def norm_span(moments: Sequence[NormsMoment]) -> tuple[float, float] | None:
    """The range of norms after the last block over all looks; None if there is no positive norm."""
    values = []
    for moment in moments:
        if countable(moment.histogram):
            values += [trimmed(moment.histogram, margin=0).edges[0], trimmed(moment.histogram, margin=0).edges[-1]]
        values += finite([layer for part in moment.layers[-1:] for layer in (part.median, part.max)])
    return positive_span(values, room=1.1)


def norm_density(moments: Sequence[NormsMoment], span: tuple[float, float], rows: int) -> np.ndarray:
    """Share of the tokens per octave of the norm after the last block, at each look.

    Tokens are spread evenly over their bin, and so over the rows it overlaps; none is lost for any bins.

    Args:
        span: range of the norms; the first row is the highest, rows are equal on a logarithmic scale.
    Returns:
        float64 [rows, looks].
    """
    edges = np.linspace(math.log2(span[1]), math.log2(span[0]), rows + 1)  # falling
    grid = np.zeros((rows, len(moments)))
    for column, moment in enumerate(moments):
        if countable(moment.histogram):
            counts = np.asarray(moment.histogram.counts, dtype=np.float64)
            counts /= counts.max()  # so that no sum overflows
            bins = np.log2(np.maximum(np.asarray(moment.histogram.edges, dtype=np.float64), SMALLEST))
            below = np.interp(edges, bins, np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum())
            grid[:, column] = -np.diff(below) / (edges[0] - edges[1])
    return grid


def strengths(grid: np.ndarray) -> np.ndarray:
    """Opacity of every cell on a log scale, so that one token in a thousand is visible beside the bulk; 0 for empty cells.

    Returns:
        float64 in 0..1, of the shape of `grid`.
    """
    top = float(grid.max(initial=0))
    if top <= 0:
        return np.zeros_like(grid)
    floor = max(float(grid[grid > 0].min()), top * 1e-4)
    range_ = math.log(top / floor) or 1.0
    return np.where(grid > 0, 0.13 + 0.87 * np.clip(np.log(np.maximum(grid, floor) / floor) / range_, 0, 1), 0.0)
