"""Where a model's outliers begin, and which patches are outliers: one pass over images, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.analysis.norms import NormHistogram
from vitreg.analysis.outliers import Detection, Side, beyond, mixture
from vitreg.analysis.tally import BatchStatistics, Tally
from vitreg.analysis.verdict.decide import choose
from vitreg.analysis.verdict.inheritance import without_inherited
from vitreg.backbones import Backbone, Capture, Trace
from vitreg.errors import UserError
from vitreg.machine.runtime import Processes
from vitreg.quantities import count
from vitreg.repair.record import OutliersRecord
from vitreg.tokens import TokenLayout

FORCED = 0.02  # share of the patches taken for outliers where a model has none
SIDES: tuple[Side, Side] = ("high", "low")
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
    """Find the block at which outliers appear, and their thresholds, as a scan does: with its default detector, without
    tokens that had their norm at the input of block 0.

    Args:
        batches: images prepared for the model.
        force: where there are none, take the `FORCED` share of patches with the largest norms at the block whose
            largest norm stands out most.
    Raises:
        NothingToRepairError: if no block shows a second group of norms.
    """
    tallied = _tallied(backbone, batches)
    with tallied.tally as tally:
        histograms = [NormHistogram(counts.astype(np.int64)) for counts in tally.sums.counts]
        every: list[dict[str, Detection]] = [{side: mixture(each, side) for side in SIDES} for each in histograms]
        found, _ = without_inherited(every, histograms, tally, tallied.images, Processes())
    side, _, peak = choose(found)
    if side is None or peak is None:
        if not force:
            came_in = any(each.found for both in every for each in both.values())
            why = ": those that stand out had their norm before the first block" if came_in else ""
            raise NothingToRepairError(
                f"no block of {backbone.spec} shows a second group of patch norms on the {count(tallied.images, 'image')} to "
                f"fit on{why}, so there is nothing to repair; more images may show a smaller group, and --force repairs it all the same."
            )
        return _forced(histograms, tallied.largest)
    thresholds = {
        block: both[side].threshold or 0.0 for block, both in enumerate(found) if both[side].found
    }  # a detection has a threshold
    record = OutliersRecord(
        side=side, onset=min(thresholds), peak=peak, thresholds=thresholds, share=found[peak][side].share,
        ratio=found[peak][side].ratio or 1.0,
    )  # fmt: skip
    return Outliers(record, tallied.largest)


@dataclass(frozen=True)
class _Tallied:
    """One pass over images.

    Args:
        tally: of all norms; closed by whoever asked.
        largest: see `Outliers`.
    """

    tally: Tally
    largest: tuple[float, ...]
    images: int


def _tallied(backbone: Backbone, batches: Iterable[Tensor]) -> _Tallied:
    tally: Tally | None = None
    largest, images = torch.zeros(backbone.depth, dtype=torch.float64), 0
    for pixels in batches:
        trace = backbone.trace(pixels, NORMS)
        layouts = (trace.layout_before(0), *(trace.layout_after(block) for block in range(backbone.depth)))
        there = torch.stack([layout.present for layout in layouts])  # [L + 1, P]
        if tally is None:
            tally = Tally(backbone.depth, TokenLayout.prefixed(layouts[0].grid), present=there.numpy())
        norms = torch.stack([patch_norms(trace, block) for block in range(backbone.depth)]).cpu()
        entering = trace.entering_norms
        before = None if entering is None else layouts[0].take(entering.float(), -1, fill=0.0).cpu().numpy()
        tally.add(_norms_alone(norms.nan_to_num(0.0).numpy(), before, images))
        for block in range(backbone.depth):
            own = norms[block][:, there[block + 1]]
            largest[block] += (own.amax(1) / own.median(1).values.clamp_min(1e-12)).double().sum()
        images += len(pixels)
    assert tally is not None, "no images"
    return _Tallied(tally, tuple((largest / images).tolist()), images)


def _norms_alone(
    norms: Float[np.ndarray, "L B P"], entering: Float[np.ndarray, "B P"] | None, start: int
) -> BatchStatistics:
    """Return the statistics of a batch of which only the norms of patches were read."""
    count = norms.shape[1]
    indices = np.arange(start, start + count)
    return BatchStatistics(
        indices=indices, names=tuple(map(str, indices)), norms=norms, entering=entering, cosine=None, cls_attention=None,
        received=None,
    )  # fmt: skip


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
