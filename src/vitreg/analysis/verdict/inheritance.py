"""Detections of tokens that had their norm before the first block are no artifacts: a scan and a repair ask alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vitreg.analysis.norms import NormHistogram, edge_index
from vitreg.analysis.outliers import MIN_RATIO, Detection, Side, beyond
from vitreg.analysis.tally import Tally, origins
from vitreg.analysis.verdict.decide import inherited, position_locked
from vitreg.machine.runtime import Processes

Both = dict[str, Detection]
"""The detections of one layer: "high" and "low"."""


def without_inherited(
    detections: Sequence[Both], histograms: Sequence[NormHistogram], tally: Tally, images: int, group: Processes
) -> tuple[list[Both], set[tuple[int, str]]]:
    """Withdraw detections of tokens that had their norm at the input of block 0, unless positions explain them.

    Args:
        detections: of every layer.
        images: over all processes.
    Returns:
        the detections, of which withdrawn ones are no longer found, and (layer, side) of those and of layers without a
        detection whose tail beyond twice the median also comes from the input. Modes there are inherited, so resamples
        ignore these layers.
    """
    splits: dict[tuple[int, str], Detection] = {}
    for layer, (both, histogram) in enumerate(zip(detections, histograms, strict=True)):
        sides: tuple[tuple[Side, float], ...] = (
            ("high", histogram.median * MIN_RATIO), ("low", histogram.median / MIN_RATIO)
        )  # fmt: skip
        for side, twice in sides:
            splits[layer, side] = both[side] if both[side].found else beyond(histogram, side, twice)
    splits = {pair: split for pair, split in splits.items() if split.ratio is not None}
    asked = [(*pair, edge_index(split.threshold or 0.0)) for pair, split in splits.items()]
    kept, ruled_out = [dict(both) for both in detections], set[tuple[int, str]]()
    for ((layer, side), split), origin in zip(splits.items(), origins(tally, asked, group), strict=True):
        late = inherited(split, origin.entering_ratio) and not position_locked(origin.positions / images, images)
        if late:
            ruled_out.add((layer, side))
        if kept[layer][side].found:
            gates = {**split.gates, "entering_ratio": origin.entering_ratio, "made_by_blocks": not late}
            kept[layer][side] = replace(split, found=not late, gates=gates)
    return kept, ruled_out
