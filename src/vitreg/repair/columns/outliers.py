"""What is left of the outliers, what became of the tokens that never were any, and how near both are to a clean twin's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.repair.columns.column import Column, PerImage, cosine_distance, mean
from vitreg.repair.columns.reading import Reading


def share(reading: Reading, block: int) -> PerImage:
    """Return how many patches are outliers after a block, of how many there are."""
    return reading.beyond(block).sum(1).double(), (~reading.norms(block).isnan()).sum(1).double()


def ratio(before: Reading, after: Reading, block: int) -> PerImage:
    """Return the median norm of the patches that were outliers over that of the others, a mean over images.

    On the low side it is the inverse, so that 1 is a patch like the others and more stands out.
    """
    values = medians(after.norms(block), before.ever)
    outliers = after.reader.outliers
    return mean(1 / values if outliers is not None and outliers.record.side == "low" else values)


def medians(norms: Float[Tensor, "B P"], were: Bool[Tensor, "B P"]) -> Float[Tensor, "B"]:
    """Return of each image the median of some patches over the median of the others; NaN where either is empty."""
    there = ~norms.isnan()
    nothing = torch.full_like(norms, torch.nan)
    some = torch.where(were & there, norms, nothing).nanmedian(1).values
    others = torch.where(~were & there, norms, nothing).nanmedian(1).values
    return some / others


def change_of_normal(before: Reading, after: Reading) -> PerImage:
    """Return 1 - cosine of the final patches that were outliers in no block, before and after, a sum over patches."""
    change = cosine_distance(before.patches, after.patches)
    count = ~before.ever & ~change.isnan()
    return torch.where(count, change, torch.zeros_like(change)).sum(1).double(), count.sum(1).double()


def restored(before: Reading, after: Reading, *, outliers: bool) -> PerImage:
    """Return the cosine of the final patches that were outliers, or of the others, to those of the clean twin."""
    return cosines(after.patches, after.clean, before.ever if outliers else ~before.ever)


def cosines(patches: Float[Tensor, "B P D"], wanted: Float[Tensor, "B P D"], which: Bool[Tensor, "B P"]) -> PerImage:
    """Return the sum of the cosines of some patches, and how many those are. A patch that is gone counts as 0."""
    found = F.cosine_similarity(patches, wanted, dim=-1).nan_to_num(0.0)
    return torch.where(which, found, torch.zeros_like(found)).sum(1).double(), which.sum(1).double()


def _peak(reading: Reading) -> int:
    return reading.reader.peak


def _last(reading: Reading) -> int:
    return reading.reader.backbone.depth - 1


COLUMNS = (
    Column(
        name="outliers_peak", title="outliers at the peak", side="gain", better="smaller", unit="%",
        meaning="Share of the patches beyond the threshold of the model as it is, at the block where they stand out most.",
        measure=lambda reading: share(reading, _peak(reading)), counts="tokens", least=0.05,
    ),
    Column(
        name="outliers_output", title="outliers at the output", side="gain", better="smaller", unit="%",
        meaning="The same after the last block, before the final norm; the threshold is that of the nearest block that has one.",
        measure=lambda reading: share(reading, _last(reading)), counts="tokens", least=0.05,
    ),
    Column(
        name="ratio_peak", title="norm ratio at the peak", side="gain", better="smaller", unit="x",
        meaning="Median norm of the tokens that were outliers over that of the others (low side: the inverse), mean over "
        "images, at the block where they stand out most.",
        compare=lambda before, after: ratio(before, after, _peak(before)), least=0.05,
    ),
    Column(
        name="ratio_output", title="norm ratio at the output", side="gain", better="smaller", unit="x",
        meaning="The same after the last block, before the final norm.",
        compare=lambda before, after: ratio(before, after, _last(before)), least=0.05,
    ),
    Column(
        name="restored_outliers", title="outliers like the clean twin's", side="gain", better="larger",
        meaning="Cosine of the final patches that were outliers to those of the clean twin; a patch that is gone counts as 0.",
        compare=lambda before, after: restored(before, after, outliers=True), least=0.01, needs="clean twin",
    ),
    Column(
        name="restored_normal", title="others like the clean twin's", side="gain", better="larger",
        meaning="The same of the patches that were outliers in no block.",
        compare=lambda before, after: restored(before, after, outliers=False), least=0.01, needs="clean twin",
    ),
    Column(
        name="normal_change", title="change of normal tokens", side="damage", better="smaller",
        meaning="1 - cosine of the final patches that never were outliers, with and without the repair, mean over patches.",
        compare=change_of_normal, least=0.001,
    ),
)  # fmt: skip
