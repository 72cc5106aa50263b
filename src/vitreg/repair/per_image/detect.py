"""Which patches of an image a repair takes for outliers while the model runs: by a threshold of norms, or by the local
outlier factor (Breunig et al. 2000), as SC-CLIP does. Each image is judged on its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.backbones.edits import Place
from vitreg.records import Side
from vitreg.repair.per_image.neighbours import patches_of
from vitreg.repair.settings import DetectedSettings
from vitreg.repair.subject import Subject
from vitreg.tokens import TokenLayout

TINY = 1e-10  # keeps the density of equal patches finite


def wide(x: Tensor) -> Tensor:
    """Return values in which statistics are computed: float64 as they are, others in float32."""
    return x if x.dtype == torch.float64 else x.float()


@torch.no_grad()
def local_outlier_factor(values: Float[Tensor, "B P D"], k: int = 30) -> Float[Tensor, "B P"]:
    """Compare the density around each patch with that around its neighbours; 1 in the middle of a cluster, more outside.

        reach(p, o) = max(distance of o to its k-th neighbour, distance of p and o)
        density(p)  = 1 / mean over the k neighbours o of p of reach(p, o)
        factor(p)   = mean over the k neighbours o of p of density(o) / density(p)

    Args:
        values: of the patches, B images; an image has its own neighbours.
        k: neighbours, at most P - 1.
    """
    with torch.autocast(values.device.type, enabled=False):
        centred = wide(values) - wide(values).mean(1, keepdim=True)  # a part that all share would cost digits
        distance = torch.cdist(centred, centred)
        distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)  # no patch is its own neighbour
        near = distance.topk(min(k, values.shape[1] - 1), largest=False)
        furthest = near.values[..., -1]  # [B, P]
        index = near.indices.flatten(1)
        reach = torch.maximum(furthest.gather(1, index).unflatten(1, near.indices.shape[1:]), near.values)
        density = 1 / (reach.mean(2) + TINY)
        return density.gather(1, index).unflatten(1, near.indices.shape[1:]).mean(2) / density


@dataclass(frozen=True)
class Detector:
    """Marks the outliers among the patches of each image.

    Args:
        kind: "norm" marks norms at or above the threshold (side "low": below it); "lof" the largest factors.
        share: of the patches, for "lof".
        neighbours: k, for "lof".
        lot: for a control: as many other patches instead, by this seed; None for the outliers themselves.
    """

    kind: Literal["norm", "lof"]
    side: Side
    threshold: float
    share: float
    neighbours: int
    lot: int | None = None

    def __call__(self, tokens: Float[Tensor, "B N D"], layout: TokenLayout) -> Bool[Tensor, "B P"]:
        """Return which patches of the grid are marked; patches that are gone are not."""
        index, places = patches_of(layout, tokens.device)
        patches = tokens.detach()[:, index]
        found = self._by_factor(patches) if self.kind == "lof" else self._by_norm(patches)
        if self.lot is not None:
            found = as_many_others(found, self.lot)
        marked = found.new_zeros(tokens.shape[0], layout.num_patches)  # not len: a graph is for any batch
        marked[:, places] = found
        return marked

    def _by_norm(self, patches: Tensor) -> Bool[Tensor, "B T"]:
        norms = torch.linalg.vector_norm(wide(patches), dim=-1)
        return norms >= self.threshold if self.side == "high" else norms < self.threshold

    def _by_factor(self, patches: Tensor) -> Bool[Tensor, "B T"]:
        # As many as scikit-learn's `contamination` marks: those beyond the quantile between P - 1 steps.
        count = max(1, math.ceil(self.share * (patches.shape[1] - 1)))
        largest = local_outlier_factor(patches, self.neighbours).topk(count).indices
        return torch.zeros(patches.shape[:2], dtype=torch.bool, device=patches.device).scatter(1, largest, True)


def as_many_others(marked: Bool[Tensor, "B T"], seed: int) -> Bool[Tensor, "B T"]:
    """Return as many patches of each image, by lot, among those that are not marked; the lot depends on the seed only."""
    order = torch.randperm(marked.shape[1], generator=torch.Generator().manual_seed(seed)).to(marked.device)
    free = ~marked[:, order]
    chosen = free & (free.cumsum(1) <= marked.sum(1, keepdim=True))
    return torch.zeros_like(marked).index_copy(1, order, chosen)


def detector_for(subject: Subject, block: int, settings: DetectedSettings) -> Detector:
    """Return the detector for the output of a block, with the threshold of the nearest block that shows outliers."""
    outliers = subject.outliers
    return Detector(
        settings.detector, outliers.record.side, outliers.threshold(block), settings.share, settings.neighbours,
        subject.seed if subject.random else None,
    )  # fmt: skip


def detector_from(details: Mapping[str, Any]) -> Detector:
    """Return the detector that a record holds."""
    return Detector(**details["detector"])


def in_patches(tokens: Tensor, place: Place, new: Tensor) -> Tensor:
    """Return the tokens with new values [B, T, D] of the patches that are there."""
    index, _ = patches_of(place.layout, tokens.device)
    return tokens.index_copy(1, index, new.to(tokens.dtype))
