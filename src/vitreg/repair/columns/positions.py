"""Whether the outliers that are left stand where they stood: correlation by place, against an exact permutation null."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from vitreg.repair.columns.column import Column
from vitreg.repair.columns.reading import Gathered
from vitreg.results import RepairCell

Counts = Float[np.ndarray, "rows cols"]


def symmetries(counts: Counts) -> list[Counts]:
    """Return the grid turned and mirrored in all ways that keep its shape: 8 of a square, 4 of another grid."""
    square = counts.shape[0] == counts.shape[1]
    turned = [np.rot90(counts, quarter) for quarter in (range(4) if square else (0, 2))]
    return [each for one in turned for each in (one, one[:, ::-1])]


def permutation_null(before: Counts, after: Counts) -> tuple[float, float]:
    """Return the correlation of two counts by place, and the share of all rolls x symmetries of `after` with one as large.

    >>> every = [corr(before, roll(turned, (r, c))) for turned in symmetries(after) for r in rows for c in cols]
    >>> corr(before, after), mean(each >= corr(before, after) for each in every)
    """
    one, others = _centred(before), [_centred(each) for each in symmetries(after)]
    scale = np.sqrt((one**2).sum() * (others[0] ** 2).sum())
    if not scale:
        return float("nan"), float("nan")
    # Circular correlation: all rolls at once.
    every = np.stack([np.fft.ifft2(np.fft.fft2(one) * np.fft.fft2(each).conj()).real for each in others]) / scale
    observed = float((one * others[0]).sum() / scale)
    return observed, float((every >= observed - 1e-9).mean())


def _centred(counts: Counts) -> Counts:
    counts = np.asarray(counts, np.float64)
    return counts - counts.mean()


def _place(index: int, before: Gathered, after: Gathered) -> RepairCell | str:
    if before.counts is None or after.counts is None or before.grid != after.grid:
        return "the patches lie on another grid"
    one, other = (each.counts.reshape(each.grid).numpy() for each in (before, after))  # type: ignore[union-attr]
    value = permutation_null(one, other)[index]
    return "no outlier is left, or one at every place" if np.isnan(value) else RepairCell(value=value)


COLUMNS = (
    Column(
        name="same_places", title="same places", side="gain", better="neither",
        meaning="Correlation of the number of outliers at each place of the grid, with and without the repair.",
        whole=lambda before, after: _place(0, before, after), least=0.1,
    ),
    Column(
        name="same_places_p", title="same places, p", side="gain", better="neither",
        meaning="Share of all rolls and symmetries of the grid that correlate as much: the exact permutation null.",
        whole=lambda before, after: _place(1, before, after), least=0.0,
    ),
)  # fmt: skip
