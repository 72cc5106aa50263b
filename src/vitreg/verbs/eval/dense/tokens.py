"""What dense tasks share: tokens of some blocks as a head reads them, and where batches and test images come from.

A `DenseSource` is either `Stored` (the short protocols: features of every image once) or `Crops` (the published ones:
the model sees new crops at every step).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.backbones.trace import Capture
from vitreg.data.sets.pairs import Pairs
from vitreg.errors import UserError
from vitreg.records import Skipped


@dataclass(frozen=True, slots=True)
class DenseTokens:
    """Tokens of some images, of each block that a head reads.

    Args:
        cls: empty where the head does without.
        grid: (rows, cols) of the patches.
    """

    patches: list[Float[Tensor, "B P D"]]
    cls: list[Float[Tensor, "B D"]]
    grid: tuple[int, int]


Read = Callable[[DenseTokens], Float[Tensor, "B C h w"]]
"""A head: from tokens to maps of any size."""
Predict = Callable[[Read], Float[Tensor, "1 C H W"]]
"""One test image: what a head says of it, by the protocol's way of showing the image to the model."""


@dataclass(frozen=True, slots=True)
class Case:
    """A test image to judge on, its map at full size, and how a head's word on it is had."""

    pairs: Pairs
    index: int
    truth: Shaped[Tensor, "H W"]
    predict: Predict


class DenseSource(Protocol):
    """Where batches to learn from and images to judge on come from."""

    @property
    def images(self) -> int:
        """How many there are to learn from."""
        ...

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What could not be used so far."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those that make the number, for the record."""
        ...

    def batches(self) -> Generator[tuple[DenseTokens, Tensor], None, None]:
        """Yield tokens and maps [B, h, w] for step after step, without end, on the device of the model."""
        ...

    def training_maps(self) -> Iterator[Tensor]:
        """Yield maps [h, w] to learn from, for what can be said without a model."""
        ...

    def judged(self) -> Iterator[Case]:
        """Yield every test image."""
        ...


@torch.no_grad()
def read_tokens(
    backbone: Backbone, images: Float[Tensor, "B 3 H W"], blocks: Sequence[int], *, with_cls: bool, final_norm: bool
) -> DenseTokens:
    """Run the model and keep what a dense head reads, in float32.

    A side that is no multiple of the patch is padded with the mean colour, equally on both ends; the padding stays in
    the maps, as in DINOv2's code.
    """
    padded = padded_evenly(images, backbone.anatomy.patch)
    trace = backbone.trace(padded, Capture(hidden=tuple(blocks)))
    patches, cls = [], []
    for block in blocks:
        hidden = backbone.normed(trace.hidden(block), final_norm=final_norm).float()
        layout = trace.layout_after(block)
        if not layout.whole:
            raise UserError(
                f"{int((~layout.present).sum())} of the {layout.num_patches} patches of {backbone.spec} have no token after "
                f"block {block}, and a map is predicted from all; choose blocks that have them."
            )
        patches.append(layout.take(hidden))
        if with_cls:
            cls.append(hidden[:, layout.cls[0]])
    # Copies: a head cannot learn from tensors that were made in inference mode.
    return DenseTokens([x.clone() for x in patches], [x.clone() for x in cls], trace.layout.grid)


def padded_evenly(images: Float[Tensor, "B 3 H W"], patch: tuple[int, int]) -> Float[Tensor, "B 3 h w"]:
    """Pad with zeros to multiples of the patch, the odd pixel at the bottom and on the right."""
    rows, cols = (-side % step for side, step in zip(images.shape[-2:], patch, strict=True))
    if not rows and not cols:
        return images
    return F.pad(images, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2))
