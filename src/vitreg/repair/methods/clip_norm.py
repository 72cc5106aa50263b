"""Clip norm: outliers keep their direction and get the median norm of their image's patches.

Where their norm is low they grow. It is a control for *substitute*: what is gained by the norm alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitreg.backbones.edits import Edit, Place
from vitreg.repair.method import Fitted, Method
from vitreg.repair.methods.substitute import detected
from vitreg.repair.per_image.detect import Detector, detector_from, in_patches, wide
from vitreg.repair.per_image.neighbours import patches_of
from vitreg.repair.settings import ClipNormSettings


@dataclass(frozen=True)
class ClipNorm:
    """Marked patches are rescaled to the median norm of the image's patches, the marked ones among them."""

    detector: Detector

    def __call__(self, tokens: Float[Tensor, "B N D"], place: Place) -> Float[Tensor, "B N D"]:
        """Rescale them."""
        index, places = patches_of(place.layout, tokens.device)
        marked = self.detector(tokens, place.layout)[:, places]
        patches = wide(tokens[:, index])
        norms = torch.linalg.vector_norm(patches, dim=-1, keepdim=True)
        layout = place.layout
        there = layout.length - len(layout.cls) - len(layout.registers) - len(layout.other)
        # What `median` gives, which ONNX lacks. The count is of the layout: a compiled graph does not know that of `norms`.
        scale = norms.sort(1).values.select(1, (there - 1) // 2)[:, None] / norms.clamp_min(
            torch.finfo(norms.dtype).tiny
        )
        return in_patches(tokens, place, torch.where(marked[..., None], patches * scale, patches))


def edits(found: Fitted) -> Sequence[Edit]:
    """Rescale them after the block."""
    return [Edit("block", found.details["block"], ClipNorm(detector_from(found.details)))]


METHOD = Method(name="clip-norm", settings=ClipNormSettings, fit=detected, edits=edits)
