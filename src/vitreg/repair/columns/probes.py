"""What the final patches know of their place and of their pixels: linear probes, fitted on the images to fit on.

Least squares in closed form (`vitreg.probes.spatial`), fitted anew to every repaired model: what another linear layer
could read, not what the old one reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.probes.spatial import PixelProbe, PositionProbe
from vitreg.repair.columns.column import Column, PerImage
from vitreg.repair.columns.reading import Reader
from vitreg.tokens import Tokens

HELD_OUT_EVERY = 10  # of the images to fit on, every tenth chooses the strength of the penalty


@dataclass(frozen=True)
class Known:
    """What both probes read of the held-out images."""

    position: PerImage
    pixels: PerImage


def known(reader: Reader) -> Known:
    """Fit both probes in one pass over the images to fit on, and judge them in one over the held-out ones."""
    backbone, subject = reader.backbone, reader.subject
    position = PositionProbe(backbone.layouts(subject.size)[-1].grid, seed=subject.seed)
    pixels = PixelProbe(backbone.anatomy.patch)
    seen = 0
    for images in subject.batches("fit"):
        patches, cells = _there(backbone(images))
        chooses = choosing(seen, len(images))
        position.partial_fit(patches, chooses, cells)
        pixels.partial_fit(patches, covered(backbone, images), chooses, cells)
        seen += len(images)
    position.finish()
    pixels.finish()
    right, explained = list[PerImage](), list[PerImage]()
    for images in subject.batches("held_out"):
        patches, cells = _there(backbone(images))
        hits = position.predict(patches) == cells.to(patches.device)
        right.append((hits.sum(1).double(), torch.full((len(images),), float(len(cells)), dtype=torch.float64)))
        shown = covered(backbone, images)
        error, control = pixels.errors(patches, shown, cells).cpu(), pixels.control_errors(shown, cells).cpu()
        missed, all_of_it = (each.double().square().sum(1) for each in (error, control))
        explained.append((all_of_it - missed, all_of_it))
    return Known(_joined(right), _joined(explained))


def choosing(start: int, count: int) -> Bool[Tensor, "B"]:
    """Return which images to fit on choose the strength of a penalty, given the place of the first."""
    return torch.arange(start, start + count) % HELD_OUT_EVERY == 1


def covered(backbone: Backbone, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
    """Return what patches cover of images."""
    rows, cols = backbone.covered((images.shape[-2], images.shape[-1]))
    return images[..., :rows, :cols]


def _there(tokens: Tokens) -> tuple[Float[Tensor, "B K D"], Int64[Tensor, "K"]]:
    """Return the final patches that are there, and their cells of the grid."""
    cells = tokens.layout.present.nonzero()[:, 0]
    return tokens.patches.float()[:, cells.to(tokens.values.device)], cells


def _joined(parts: list[PerImage]) -> PerImage:
    return torch.cat([above.cpu() for above, _ in parts]), torch.cat([below.cpu() for _, below in parts])


COLUMNS = (
    Column(
        name="position_probe", title="position probe", side="damage", better="larger", unit="%", counts="tokens", least=1.0,
        meaning="Share of the final patches of which a linear layer, fitted by least squares on the images to fit on, tells the "
        "place on the grid.",
        run=lambda reader: reader.once("probes", known).position,
    ),
    Column(
        name="pixel_probe", title="pixels explained", side="damage", better="larger", unit="%", least=1.0,
        meaning="Share of the squared deviation of the patches' pixels from the mean patch that a linear layer, fitted by least "
        "squares on the images to fit on, explains from the final patches.",
        run=lambda reader: reader.once("probes", known).pixels,
        lacks=lambda reader: "the images are changed before the model sees them" if reader.backbone.edits_images else "",
    ),
)  # fmt: skip
