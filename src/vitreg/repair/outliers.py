"""Where a model's outliers begin, and which patches are outliers: one pass over images, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.analysis.norms import BINS, NormHistogram, encode, to_bin
from vitreg.analysis.outliers import Detection, Side, beyond, mixture
from vitreg.backbones import Backbone, Capture, Trace
from vitreg.errors import UserError
from vitreg.repair.record import OutliersRecord

FORCED = 0.02  # share of the patches taken for outliers where a model has none
NORMS = Capture(norms="all")


class NothingToRepairError(UserError):
    """No block shows a second group of norms on these images."""


@dataclass(frozen=True)
class Outliers:
    """The outliers of one model.

    Args:
        record: where they are, see `OutliersRecord`.
        largest: of each block, the mean over images of the largest patch norm over the median one.
    """

    record: OutliersRecord
    largest: tuple[float, ...]

    @property
    def onset(self) -> int:
        """The first block whose output shows them."""
        return self.record.onset

    @property
    def blocks(self) -> list[int]:
        """All blocks whose outputs show them."""
        return sorted(self.record.thresholds)

    def threshold(self, block: int) -> float:
        """Return the threshold of a block that shows them, and of others that of the nearest one."""
        near = min(self.record.thresholds, key=lambda each: (abs(each - block), each))
        return self.record.thresholds[near]

    def beyond(self, norms: Float[Tensor, "B P"], block: int | None = None) -> Bool[Tensor, "B P"]:
        """Return which patches are outliers by their norms after a block, the onset if None; patches that are gone are
        not."""
        threshold = self.threshold(self.onset if block is None else block)
        return norms >= threshold if self.record.side == "high" else norms < threshold


def patch_norms(trace: Trace, block: int) -> Float[Tensor, "B P"]:
    """Return the norms of the patches after a block, float32; NaN for patches that are gone."""
    return trace.layout_after(block).take(trace.norms(block).float(), -1)


def find_outliers(backbone: Backbone, batches: Iterable[Tensor], *, force: bool = False) -> Outliers:
    """Find the block at which outliers appear, and their thresholds, with the default detector of the scan.

    Args:
        batches: images prepared for the model.
        force: where there are none, take the `FORCED` share of patches with the largest norms at the block whose
            largest norm stands out most.
    Raises:
        NothingToRepairError: if no block shows a second group of norms.
    """
    counts = np.zeros((backbone.depth, BINS), np.int64)
    largest, images = torch.zeros(backbone.depth, dtype=torch.float64), 0
    for pixels in batches:
        trace = backbone.trace(pixels, NORMS)
        images += len(pixels)
        for block in range(backbone.depth):
            norms = patch_norms(trace, block)
            norms = norms[:, ~norms[0].isnan()]
            counts[block] += np.bincount(to_bin(encode(norms.cpu().numpy())).ravel(), minlength=BINS)
            largest[block] += (norms.amax(1) / norms.median(1).values.clamp_min(1e-12)).double().sum().cpu()
    histograms = [NormHistogram(each) for each in counts]
    stands_out = tuple((largest / max(images, 1)).tolist())
    found: dict[Side, dict[int, Detection]] = {
        "high": _detections(histograms, "high"), "low": _detections(histograms, "low"),
    }  # fmt: skip
    side: Side = "high" if _largest_ratio(found["high"]) >= _largest_ratio(found["low"]) else "low"
    if not found[side]:
        if not force:
            raise NothingToRepairError(
                f"no block of {backbone.spec} shows a second group of patch norms on these {images} images, so there is "
                "nothing to repair; --force repairs it all the same."
            )
        return _forced(histograms, stands_out)
    peak = max(found[side], key=lambda block: found[side][block].ratio or 0.0)
    at_peak = found[side][peak]
    thresholds = {block: float(each.threshold) for block, each in found[side].items() if each.threshold is not None}
    record = OutliersRecord(
        side=side,
        onset=min(thresholds),
        peak=peak,
        thresholds=thresholds,
        share=at_peak.share,
        ratio=at_peak.ratio or 1.0,
    )
    return Outliers(record, stands_out)


def _detections(histograms: Sequence[NormHistogram], side: Side) -> dict[int, Detection]:
    every = {block: mixture(histogram, side) for block, histogram in enumerate(histograms)}
    return {block: detection for block, detection in every.items() if detection.found}


def _largest_ratio(found: dict[int, Detection]) -> float:
    return max((each.ratio or 0.0 for each in found.values()), default=0.0)


def _forced(histograms: list[NormHistogram], largest: tuple[float, ...]) -> Outliers:
    """Take the patches with the largest norms for outliers, at the block where the largest stands out most."""
    block = int(np.argmax(largest))
    split = beyond(histograms[block], "high", histograms[block].quantile(1 - FORCED))
    assert split.threshold is not None
    record = OutliersRecord(
        side="high", onset=block, peak=block, thresholds={block: split.threshold}, share=split.share,
        ratio=split.ratio or 1.0, forced=True,
    )  # fmt: skip
    return Outliers(record, largest)
