"""How much what a scan found depends on which images it saw: 95 % intervals, by resampling the images.

The verdict asks resamples only whether any block shows outliers. This asks where: in the last block, at which the paper
looks, and from which block on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vitreg.analysis.norms import NormHistogram, decode
from vitreg.analysis.outliers import Detection, Detector, Side, ratio_of
from vitreg.analysis.tally import GROUPS, Tally, group_histograms
from vitreg.analysis.verdict import resampling
from vitreg.analysis.verdict.resampling import MIN_IMAGES_FOR_CONFIDENCE, Pools, weights
from vitreg.machine.runtime import Processes
from vitreg.records import OverImages

LEVEL = 0.95


def over_images(
    tally: Tally, group: Processes, detector: Detector, side: Side | None, last: Detection, *,
    counts: Callable[[int], bool], seed: int,
) -> OverImages | None:  # fmt: skip
    """Resample the images of a scan.

    Args:
        side: on which the verdict has outliers; None for a verdict none.
        last: what the detector found in the last block, on that side.
        counts: whether outliers of a block would count; those that the pixels bring along do not.
        seed: of the resamples.
    Returns:
        the intervals; None for too few images.
    """
    block = tally.layers - 1
    histograms = group_histograms(tally, [block], group)[:, 0]
    filled = histograms.sum(1) > 0
    images = int(group.sum(np.array([len(tally.names)]))[0])
    if images < MIN_IMAGES_FOR_CONFIDENCE:
        return None
    drawn = weights(int(filled.sum()), resampling.RESAMPLES, seed)
    pool = Pools(histograms[filled])
    pooled = [pool(weight) for weight in drawn]
    longest = _longest(tally, group, filled, drawn, pooled)
    if side is None:
        return OverImages(resamples=len(drawn), longest_register=longest)
    shows = np.array([counts(block) and detector(each, side).found for each in pooled])
    share = ratio = None
    if last.found and last.threshold is not None:
        parts = [each.split(last.threshold, side) for each in pooled]
        share = ends([outside.total / (inside.total + outside.total) for inside, outside in parts])
        ratio = ends([ratio_of(o.median, i.median, side) for i, o in parts if i.total and o.total])
    first = _first(tally, group, detector, side, counts, filled, drawn)
    return OverImages(
        resamples=len(drawn), found=float(shows.mean()), share=share, ratio=ratio, first=first, longest_register=longest
    )


def _first(
    tally: Tally, group: Processes, detector: Detector, side: Side, counts: Callable[[int], bool], filled: np.ndarray,
    drawn: np.ndarray,
) -> tuple[int, int] | None:  # fmt: skip
    """Return the ends of the first block with outliers, of the resamples that show some; None if most show none."""
    first = np.full(len(drawn), tally.layers)
    for block in range(tally.layers):
        open_ = np.flatnonzero(first == tally.layers)
        if not len(open_):
            break
        if counts(block):
            pool = Pools(group_histograms(tally, [block], group)[filled, 0])
            first[[place for place in open_ if detector(pool(drawn[place]), side).found]] = block
    shown = first[first < tally.layers]
    if 2 * len(shown) <= len(first):
        return None
    low, high = ends(shown.astype(float))
    return int(low), int(high)


def _longest(
    tally: Tally, group: Processes, filled: np.ndarray, drawn: np.ndarray, pooled: list[NormHistogram]
) -> tuple[float, float] | None:
    """Return the ends of the longest register's norm, mean over images, over the median patch; None without registers."""
    registers = [index for index in tally.layout.registers if tally.present[-1, index]]
    if not registers:
        return None
    sums, images, start = np.zeros((GROUPS, len(registers))), np.zeros(GROUPS), 0
    for codes, _ in tally.tokens():
        groups = tally.order[start : start + len(codes)] % GROUPS
        start += len(codes)
        np.add.at(sums, groups, decode(codes[:, -1, registers]).astype(np.float64))
        np.add.at(images, groups, 1.0)
    sums, images = group.sum(sums)[filled], group.sum(images)[filled]
    means = (drawn @ sums) / (drawn @ images)[:, None]  # [resamples, registers]
    return ends([longest / each.median for longest, each in zip(means.max(1), pooled, strict=True) if each.median])


def ends(values: np.ndarray | list[float]) -> tuple[float, float]:
    """Return values of two resamples, between which at least 95 % lie: no number that none of them has."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    outside = (1 - LEVEL) / 2 * (len(ordered) - 1)
    low, high = ordered[int(np.floor(outside))], ordered[int(np.ceil(len(ordered) - 1 - outside))]
    return float(f"{low:.6g}"), float(f"{high:.6g}")
