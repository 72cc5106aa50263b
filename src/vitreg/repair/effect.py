"""The effect of a repair on images that it was not fitted on: what is left of the outliers, and how the class token moves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.repair.outliers import NORMS, Outliers, patch_norms
from vitreg.repair.record import EffectRecord
from vitreg.repair.subject import Part, Subject
from vitreg.tokens import Tokens


def summary_of(tokens: Tokens) -> Float[Tensor, "B D"]:
    """Return the class token, or the mean patch of a model without one, float32."""
    return tokens.cls.float() if tokens.layout.cls else tokens.mean_patch


@dataclass(frozen=True)
class Looked:
    """One model over a part of the images: outliers by block, norms at the peak, and what stands for the image."""

    shares: dict[int, float]
    at_peak: Float[Tensor, "n P"]
    summaries: Float[Tensor, "n D"]


def look(backbone: Backbone, subject: Subject, outliers: Outliers, part: Part) -> Looked:
    """Run a model once over a part of the images.

    Args:
        outliers: of the unrepaired model, whose thresholds decide.
    """
    beyond, patches = dict.fromkeys(outliers.blocks, 0), dict.fromkeys(outliers.blocks, 0)
    summaries, at_peak = [], []
    for pixels in subject.batches(part):
        trace = backbone.trace(pixels, NORMS)
        for block in outliers.blocks:
            norms = patch_norms(trace, block)
            beyond[block] += int(outliers.beyond(norms, block).sum())
            patches[block] += int((~norms.isnan()).sum())
        at_peak.append(patch_norms(trace, outliers.record.peak).cpu())
        summaries.append(summary_of(trace.final).cpu())
    shares = {block: beyond[block] / max(patches[block], 1) for block in outliers.blocks}
    return Looked(shares, torch.cat(at_peak), torch.cat(summaries))


class Effects:
    """Effects of repairs of one model on one part of its images; the unrepaired model is looked at once."""

    def __init__(self, subject: Subject, outliers: Outliers, part: Part) -> None:
        self._subject, self._outliers = subject, outliers
        self._part: Part = part

    @cached_property
    def _before(self) -> Looked:
        return look(self._subject.backbone, self._subject, self._outliers, self._part)

    @property
    def outliers(self) -> int:
        """How many outliers the unrepaired model has at the peak."""
        return int(self._outliers.beyond(self._before.at_peak, self._outliers.record.peak).sum())

    def of(self, repaired: Backbone) -> EffectRecord:
        """Return the effect of a repair, given the repaired model."""
        before, after = self._before, look(repaired, self._subject, self._outliers, self._part)
        change = 1 - F.cosine_similarity(before.summaries, after.summaries).mean()
        peak = self._outliers.record.peak
        were = self._outliers.beyond(before.at_peak, peak)
        ratio = float(after.at_peak[were].median() / after.at_peak[~were & ~before.at_peak.isnan()].median())
        return EffectRecord(
            images=len(after.summaries), share=after.shares[peak], before=before.shares[peak],
            worst_share=max(after.shares.values()), ratio=ratio if bool(were.any()) else None,
            cls_change=max(0.0, float(change)),
        )  # fmt: skip
