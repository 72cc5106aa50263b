"""Substitute: outliers become the mean of the ordinary patches around them.

As in SC-CLIP, which finds them by the local outlier factor after the last block but one (`--detector lof --where late`).
The default is vitreg's own: found by the scan's threshold and replaced where they appear, so that no later block sees
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from vitreg.backbones.edits import Edit, Place
from vitreg.repair.method import Fitted, Method
from vitreg.repair.per_image.detect import Detector, detector_for, detector_from, in_patches
from vitreg.repair.per_image.neighbours import filled, patches_of
from vitreg.repair.settings import ClipNormSettings, SubstituteSettings
from vitreg.repair.subject import Subject


@dataclass(frozen=True)
class Substitute:
    """Marked patches become the mean of their nearest unmarked neighbours."""

    detector: Detector

    def __call__(self, tokens: Float[Tensor, "B N D"], place: Place) -> Float[Tensor, "B N D"]:
        """Replace them."""
        layout = place.layout
        index, places = patches_of(layout, tokens.device)
        marked = self.detector(tokens, layout)[:, places]
        return in_patches(tokens, place, filled(tokens[:, index], marked, places, layout.grid))


def block_of(subject: Subject, where: Literal["onset", "late", "output"]) -> int:
    """Return the block after which a repair acts."""
    depth = subject.backbone.depth
    return {"onset": subject.outliers.onset, "late": max(depth - 2, 0), "output": depth - 1}[where]


def detected(subject: Subject, settings: SubstituteSettings | ClipNormSettings) -> Fitted:
    """Find the block and the threshold."""
    block = block_of(subject, settings.where)
    return Fitted(details={"block": block, "detector": asdict(detector_for(subject, block, settings))})


def edits(found: Fitted) -> Sequence[Edit]:
    """Replace them after the block."""
    return [Edit("block", found.details["block"], Substitute(detector_from(found.details)))]


METHOD = Method(name="substitute", settings=SubstituteSettings, fit=detected, edits=edits)
