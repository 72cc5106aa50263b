"""`View`: how one model sees images: the preprocessing, the size and the batch."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.data.views.transforms import Policy, Preprocess
from vitreg.errors import UserError
from vitreg.tokens import TokenLayout

TOKENS_AT_ONCE = {"cpu": 4_200, "cuda": 64_000}  # enough to fill a processor's caches, or a GPU
MOST_AT_ONCE = 256  # images
WORKING_SET = 16  # vectors a block holds per token: q, k, v, the MLP's hidden layer, residuals
SHARE_OF_MEMORY = 4  # a forward may take a quarter


@dataclass(frozen=True)
class View:
    """How a model sees images.

    Args:
        preprocess: picture -> normalised image; None where images are tensors already prepared.
        policy: how sides that the patch does not divide are handled, see `vitreg.data.fit`.
        size: (height, width) of the model's input.
        batch: images per forward.
    """

    backbone: Backbone
    preprocess: Preprocess | None
    policy: Policy
    size: tuple[int, int]
    batch: int

    @property
    def layout(self) -> TokenLayout:
        """The roles of the final tokens at this size."""
        return self.backbone.layout(self.size)

    @property
    def pictures(self) -> Preprocess:
        """Preprocessing, picture -> normalised image; for views of pictures only."""
        assert self.preprocess is not None, "a view of tensors"
        return self.preprocess

    def at(self, height: int, width: int) -> View:
        """Return this view at another image size."""
        preprocess = None if self.preprocess is None else self.preprocess.with_size((height, width))
        size = fitted((height, width), self.backbone, self.policy)
        return replace(self, preprocess=preprocess, size=size, batch=images_at_once(self.backbone, size))

    def fit(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """Bring normalised images to `size` by `policy`."""
        return self.backbone.fit(images, self.policy)

    def shown(self, images: Float[Tensor, "B C h w"]) -> UInt8[np.ndarray, "B H W 3"]:
        """Return the area the patches cover as pictures; stretched to their range if the normalisation is unknown."""
        rows, cols = self.backbone.covered((images.shape[2], images.shape[3]))
        images = images[..., :rows, :cols]
        if self.preprocess is None:
            return shown_stretched(images)
        return np.stack([np.asarray(self.preprocess.unnormalise(each)) for each in images])


def view_of(
    backbone: Backbone,
    *,
    size: tuple[int, int] | None = None,
    policy: Policy = "resize",
    batch: int | None = None,
    preprocess: Preprocess | None = None,
) -> View:
    """Return how a model sees photographs.

    Args:
        size: (height, width); the model's own if None.
        batch: images per forward; `images_at_once` if None.
        preprocess: replaces the model's own.
    Raises:
        UserError: for a model that photographs cannot be prepared for, or a size that it cannot take.
    """
    preprocess = backbone.prepared(size) if preprocess is None else preprocess
    seen = fitted(preprocess.size, backbone, policy)
    return View(backbone, preprocess, policy, seen, batch or images_at_once(backbone, seen))


def view_of_tensors(backbone: Backbone, images: Tensor, *, policy: Policy = "resize", batch: int | None = None) -> View:
    """Return how a model sees images [n, C, H, W] that are prepared for it.

    Raises:
        UserError: for a tensor of another shape or type.
    """
    channels = backbone.anatomy.channels
    if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point():
        raise UserError(
            f"images must be a floating point tensor [n, {channels}, H, W], not {images.dtype} {list(images.shape)}."
        )
    seen = fitted((images.shape[2], images.shape[3]), backbone, policy)
    return View(backbone, None, policy, seen, batch or images_at_once(backbone, seen))


def images_at_once(backbone: Backbone, size: tuple[int, int]) -> int:
    """Return the batch for images of (height, width): the one rule, by memory.

    As many as fill the caches of a processor or occupy a GPU, as long as one block's working set stays within a quarter
    of the machine's memory. The same machine always gives the same number, so that an interrupted pass goes on.
    """
    tokens, device = max(layout.length for layout in backbone.layouts(size)), backbone.device
    image = tokens * backbone.anatomy.width * WORKING_SET * 4  # bytes
    enough = TOKENS_AT_ONCE.get(device.type, TOKENS_AT_ONCE["cpu"]) // tokens
    return max(1, min(enough, _memory(device) // SHARE_OF_MEMORY // image, MOST_AT_ONCE))


def _memory(device: torch.device) -> int:
    """All memory of the device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 4 * 2**30


def fitted(size: tuple[int, int], backbone: Backbone, policy: Policy) -> tuple[int, int]:
    """Return the image size after `Backbone.fit`.

    Raises:
        UserError: if it holds fewer than four patches.
    """
    patch, after = backbone.anatomy.patch, backbone.fit(torch.empty(1, 1, *size, device="meta"), policy)
    if after.shape[2] * after.shape[3] < 4 * patch[0] * patch[1]:
        raise UserError(
            f"images of {size[0]}x{size[1]} px hold fewer than 4 patches of {patch[0]}x{patch[1]}; choose a larger size."
        )
    return after.shape[2], after.shape[3]


def shown_stretched(images: Float[Tensor, "B C H W"]) -> UInt8[np.ndarray, "B H W 3"]:
    """Make pictures of images whose normalisation is unknown, each stretched to its range.

    With other than three channels, their mean is shown in grey.
    """
    x = images.detach().float().cpu()
    x = x if x.shape[1] == 3 else x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return ((x - low) / (high - low).clamp_min(1e-6) * 255).byte().permute(0, 2, 3, 1).numpy()
