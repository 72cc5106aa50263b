"""Input of the dense tasks: tokens of some blocks as a head reads them, and the source of batches and test images.

A `DenseSource` is either `Stored` (short protocols: features of every image are computed once) or `Crops` (published
protocols: the model runs on new crops at every step).
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
from vitreg.data.sets.example import Pairs
from vitreg.errors import UserError
from vitreg.records import Skipped


@dataclass(frozen=True, slots=True)
class DenseTokens:
    """Tokens of some images, one entry per block that a head reads.

    Args:
        cls: class tokens; empty for a head that does not read them.
        grid: (rows, cols) of the patches.
    """

    patches: list[Float[Tensor, "B P D"]]
    cls: list[Float[Tensor, "B D"]]
    grid: tuple[int, int]


Read = Callable[[DenseTokens], Float[Tensor, "B C h w"]]
"""A head: tokens -> maps of any size."""
Predict = Callable[[Read], Float[Tensor, "1 C H W"]]
"""Prediction for one test image by a head, with the protocol's views of the image."""


@dataclass(frozen=True, slots=True)
class Case:
    """A test image, its true map at full size, and the function that predicts its map with a head."""

    pairs: Pairs
    index: int
    truth: Shaped[Tensor, "H W"]
    predict: Predict


class DenseSource(Protocol):
    """The source of training batches and test images."""

    @property
    def images(self) -> int:
        """Number of training images."""
        ...

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images that could not be used so far."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that determine the numbers, for the record."""
        ...

    def batches(self) -> Generator[tuple[DenseTokens, Tensor], None, None]:
        """Yield tokens and maps [B, h, w] for each step, endlessly, on the device of the model."""
        ...

    def training_maps(self) -> Iterator[Tensor]:
        """Yield training maps [h, w], for controls without a model."""
        ...

    def judged(self) -> Iterator[Case]:
        """Yield every test image."""
        ...


@torch.no_grad()
def read_tokens(
    backbone: Backbone, images: Float[Tensor, "B 3 H W"], blocks: Sequence[int], *, with_cls: bool, final_norm: bool
) -> DenseTokens:
    """Run the model and return the tokens that a dense head reads, in float32.

    A side that is not a multiple of the patch is padded with the mean colour, equally at both ends; the padding stays in
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
    # Copies, because a head cannot be trained on inference-mode tensors.
    return DenseTokens([x.clone() for x in patches], [x.clone() for x in cls], trace.layout.grid)


def padded_evenly(images: Float[Tensor, "B 3 H W"], patch: tuple[int, int]) -> Float[Tensor, "B 3 h w"]:
    """Pad with zeros to multiples of the patch, the odd pixel at the bottom and on the right."""
    rows, cols = (-side % step for side, step in zip(images.shape[-2:], patch, strict=True))
    if not rows and not cols:
        return images
    return F.pad(images, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2))
