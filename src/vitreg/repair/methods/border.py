"""A border of empty patches as registers: the idea is UniRefiner's, the training is vitreg's own.

The image gets a ring one patch wide of zeros (after normalisation) on all sides, whose tokens are registers. Low-rank
additions to the projections of attention (LoRA) are trained such that the patches are those of the frozen model, in which
outliers are filled from their neighbours; they are merged into the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.backbones.anatomy.parts import substituted
from vitreg.backbones.edits import Edit, Place
from vitreg.backbones.trace import NORMS
from vitreg.errors import UserError
from vitreg.repair.method import Fitted, Method
from vitreg.repair.outliers import patch_norms
from vitreg.repair.per_image.neighbours import filled, patches_of
from vitreg.repair.settings import BorderSettings
from vitreg.repair.subject import Subject
from vitreg.repair.train import Schedule, cosine_loss, places_of, train, trainable_copy, wanted_patches
from vitreg.tokens import TokenLayout

LR, WEIGHT_DECAY = 1e-4, 1e-2


@dataclass(frozen=True)
class AddRing:
    """Zeros around the image, one patch wide; the tokens of the ring are registers.

    Args:
        patch: (height, width) in pixels.
    """

    patch: tuple[int, int]

    def __call__(self, images: Float[Tensor, "B C H W"], place: Place) -> Float[Tensor, "B C h w"]:
        """Pad what patches cover of the images."""
        (rows, cols), (height, width) = place.layout.grid, self.patch
        covered = images[..., : rows * height, : cols * width]
        below, right = (rows + 1) * height - covered.shape[-2], (cols + 1) * width - covered.shape[-1]
        return F.pad(covered, (width, right, height, below))

    def layout(self, before: TokenLayout) -> TokenLayout:
        """The outermost patches are registers."""
        rows, cols = before.grid
        # Numbers, not tensors: those that are read while a graph is made are unknown in it.
        inner = [before.patch(row, col) for row in range(1, rows - 1) for col in range(1, cols - 1)]
        ring = sorted({before.patch(row, col) for row in range(rows) for col in range(cols)} - {*inner})
        return TokenLayout(
            cls=before.cls,
            registers=tuple(sorted((*before.registers, *ring))),
            other=before.other,
            patches=tuple(inner),
            grid=(rows - 2, cols - 2),
        )


@dataclass(frozen=True)
class DropRing:
    """The tokens of the ring leave."""

    def __call__(self, tokens: Tensor, place: Place) -> Tensor:
        """Take them out."""
        ring = {*ring_of(place.layout)}
        kept = [index for index in range(place.layout.length) if index not in ring]
        return tokens[:, kept]

    def layout(self, before: TokenLayout) -> TokenLayout:
        """They are gone."""
        return before.without(ring_of(before))


def ring_of(layout: TokenLayout) -> list[int]:
    """Return the tokens of the ring, given a layout in which the patches inside it lie row by row.

    Raises:
        UserError: if tokens were added among them.
    """
    (rows, cols), first = layout.grid, layout.first_patch
    inner = {layout.patch(row, col) for row in range(rows) for col in range(cols)}
    start = first - (cols + 2) - 1
    every = range(start, start + (rows + 2) * (cols + 2))
    ring = sorted({*every} - inner)
    if len(ring) != 2 * (rows + cols + 2) or not {*ring} <= {*layout.registers}:
        raise UserError("tokens were added or taken out among those of the border, so it cannot be taken out again.")
    return ring


class LowRank(nn.Module):
    """Additions of low rank to weights of a tower: W + B A, B zero at first."""

    def __init__(self, backbone: Backbone, rank: int, seed: int) -> None:
        super().__init__()
        anatomy = backbone.anatomy
        places = places_of(anatomy.tower)
        draw = torch.Generator().manual_seed(seed)
        self.at: list[tuple[nn.Module, str, str, Tensor]] = []
        self.a, self.b = nn.ParameterList(), nn.ParameterList()
        for parts in anatomy.attention:
            for weight in (*parts.weights(), parts.output_weight()):
                rows, cols = weight.shape
                self.at.append((*places[id(weight)], weight))
                low = torch.randn(rank, cols, generator=draw) / cols**0.5
                self.a.append(nn.Parameter(low.to(weight.device)))
                self.b.append(nn.Parameter(torch.zeros(rows, rank, device=weight.device)))

    def changed(self) -> list[tuple[nn.Module, str, Tensor]]:
        """Return (module, attribute, weight) with the additions, for `substituted`."""
        return [
            (module, attribute, weight + b @ a)
            for (module, attribute, _, weight), a, b in zip(self.at, self.a, self.b, strict=True)
        ]

    @torch.no_grad()
    def merged(self) -> dict[str, Tensor]:
        """Return the weights with the additions, by name."""
        return {name: value.cpu() for (_, _, name, _), (_, _, value) in zip(self.at, self.changed(), strict=True)}


def fit(subject: Subject, settings: BorderSettings) -> Fitted:
    """Train the additions."""
    base = subject.backbone
    if not base.anatomy.resizable:
        raise UserError(
            f"{base.spec} takes images of one size only, so no border fits around them; substitute needs none."
        )
    if not base.anatomy.attention:
        raise UserError(
            f"the projections of attention of {base.spec} are not recognised, so no border can be trained; distill trains "
            "other weights."
        )
    ring = AddRing(base.anatomy.patch)
    student = trainable_copy(base).edited([Edit("image", None, ring)], "border")
    student(next(subject.batches("fit"))[:1])  # refuse a size that the model cannot take before the teacher runs
    low = LowRank(student, settings.rank, subject.seed)
    # A control is the same border untrained.
    schedule = Schedule(
        epochs=0 if subject.random else settings.epochs, lr=LR, last_lr=LR, weight_decay=WEIGHT_DECAY,
        batch=settings.images_at_once,
    )  # fmt: skip

    def patches(pixels: Tensor) -> Tensor:
        with substituted(*low.changed()):
            return student(pixels, grad=True).patches

    with wanted_patches(subject, lambda pixels: without_outliers(subject, pixels)) as wanted:
        losses = train(subject, low.parameters(), patches, wanted, cosine_loss, schedule)
    rows, cols = base.layout(subject.size).grid
    return Fitted(
        low.merged(), {"patch": list(base.anatomy.patch), "losses": losses, "tokens added": 2 * (rows + cols + 2)}
    )


def without_outliers(subject: Subject, pixels: Tensor) -> Float[Tensor, "B P D"]:
    """Return the final patches of the unrepaired model, those that are outliers at the onset filled from their
    neighbours."""
    outliers = subject.outliers
    trace = subject.backbone.trace(pixels, NORMS)
    beyond = outliers.beyond(patch_norms(trace, outliers.onset))
    layout, patches = trace.final.layout, trace.final.patches
    _, places = patches_of(layout, patches.device)
    return filled(patches[:, places], beyond[:, places], places, layout.grid)


def weights(found: Fitted) -> Mapping[str, Tensor]:
    """Return the weights with the additions merged."""
    return dict(found.tensors)


def edits(found: Fitted) -> Sequence[Edit]:
    """Add the ring."""
    height, width = found.details["patch"]
    return [Edit("image", None, AddRing((height, width)))]


def leaving(_found: Fitted) -> Sequence[Edit]:
    """Take its tokens out after the last block."""
    return [Edit("block", -1, DropRing())]


METHOD = Method(
    name="border", settings=BorderSettings, fit=fit, edits=edits, leaving=leaving, weights=weights, fewest=8
)
