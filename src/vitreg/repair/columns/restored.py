"""How near a repaired model comes to its clean twin, where one is known: planted models only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.repair.columns.column import Column, PerImage
from vitreg.repair.columns.reading import Reading


def restored(before: Reading, after: Reading, *, outliers: bool) -> PerImage:
    """Return the cosine of the final patches that were outliers, or of the others, to those of the clean twin."""
    return cosines(after.patches, after.clean, before.ever if outliers else ~before.ever)


def cosines(patches: Float[Tensor, "B P D"], wanted: Float[Tensor, "B P D"], which: Bool[Tensor, "B P"]) -> PerImage:
    """Return the sum of the cosines of some patches, and how many those are. A patch that is gone counts as 0."""
    found = F.cosine_similarity(patches, wanted, dim=-1).nan_to_num(0.0)
    return torch.where(which, found, torch.zeros_like(found)).sum(1).double(), which.sum(1).double()


COLUMNS = (
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
)  # fmt: skip
