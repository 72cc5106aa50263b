"""Runs a model on whole photographs: original resolution, padding after the normalisation, features by block.

This is LOST's input (Siméoni et al. 2021): no resizing or cropping unless requested, zeros below and to the right of the
normalised image, and padded patches are treated like all others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.backbones.trace import Capture, resolve_layer
from vitreg.data import Preprocess, Unreadable, fit
from vitreg.data.sources.decode import TURNED
from vitreg.errors import UserError
from vitreg.report.sheets.boxes import thumbnail
from vitreg.verbs.discover.setting import Feature

MAX_PATCHES = 8192  # their Gram matrix is 256 MiB, and attention has one per head


@dataclass(frozen=True, slots=True)
class Photograph:
    """One image as the model gets it.

    Args:
        pixels: uint8, resized if requested, not padded.
        original: (height, width) of the image.
        shown: small copy for the sheets.
        orientation: the EXIF orientation by which the picture was turned.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    original: tuple[int, int]
    shown: UInt8[np.ndarray, "a b 3"]
    orientation: int = 1

    @property
    def seen(self) -> tuple[int, int]:
        """(height, width) after resizing, before padding."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def plain(self) -> bool:
        """Whether it has one colour: no two pixels differ by more than one of 256 levels (rounding)."""
        return int(np.ptp(self.pixels, axis=(0, 1)).max()) <= 1

    def to_original(self, box: Iterable[float]) -> tuple[float, float, float, float]:
        """Scale a box from the model's input to pixels of the image."""
        down, across = self.original[0] / self.seen[0], self.original[1] / self.seen[1]
        x0, y0, x1, y1 = box
        return x0 * across, y0 * down, x1 * across, y1 * down


class DiscoverModel:
    """One backbone and its preparation of photographs.

    Args:
        size: length of the short side, or (height, width) ignoring the aspect; None for no resizing.
    Raises:
        UserError: for a model whose normalisation is unknown, or a model of a single size if `size` is None.
    """

    def __init__(self, backbone: Backbone, size: int | tuple[int, int] | None) -> None:
        backbone.refuse_edited_images("boxes")
        native = backbone.anatomy.native_size
        if not backbone.anatomy.resizable and size != native:
            raise UserError(
                f"this {type(backbone.anatomy.tower).__name__} takes images of {native[0]}x{native[1]} pixels only, "
                f"so it cannot see them at their own resolution; give --size {native[0]}x{native[1]}."
            )
        self.backbone, self.size, self._native = backbone, size, size == native
        self._preprocess: Preprocess = backbone.prepared(native)

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self.backbone.anatomy.patch

    @property
    def resolution(self) -> str:
        """Size of the model's input, in words."""
        if self.size is None:
            return "original"
        if isinstance(self.size, int):
            return f"short side {self.size}"
        return f"{self.size[0]}x{self.size[1]} (height x width, aspect not kept)"

    def protocol(self) -> dict[str, object]:
        """How images are prepared, for the record."""
        mean, std = ("/".join(f"{v:g}" for v in values) for values in (self._preprocess.mean, self._preprocess.std))
        padding = f"zeros behind the normalisation, bottom and right, to multiples of {self.patch[0]}x{self.patch[1]}"
        return {
            "resolution": self.resolution,
            "padding": "none, the model's own size" if self._native else padding,
            "mean": mean,
            "std": std,
        }

    def prepare(self, image: Image.Image) -> Photograph:
        """Resize if requested, and refuse images too large for memory.

        Raises:
            Unreadable: for an image of more than MAX_PATCHES patches.
        """
        size = self._target(image.height, image.width)
        rows, cols = (-(-side // patch) for side, patch in zip(size, self.patch, strict=True))
        if rows * cols > MAX_PATCHES:
            raise Unreadable(
                f"{size[1]}x{size[0]} px are {rows * cols} patches, more than the limit of {MAX_PATCHES}; give --size"
            )
        original, orientation = (image.height, image.width), int(image.info.get(TURNED, 1))
        if size != original:
            image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
        return Photograph(pixels, original, thumbnail(pixels), orientation)

    def features(
        self, photograph: Photograph, wanted: Iterable[tuple[Feature, int]]
    ) -> tuple[dict[tuple[Feature, int], Float32[Tensor, "P D"]], tuple[int, int]]:
        """Run the model once. Returns the features of the patches by (feature, block) and the grid (rows, cols).

        k, q and v are the projection's output (with bias, before scaling, qk-norm and rotary embedding), heads side by
        side; `output` is the block's, before the final norm. All other tokens are left out by their role.

        Raises:
            UserError: for a block that does not exist, unknown projections, or features that are not finite.
        """
        depth = self.backbone.depth
        asked = [(feature, resolve_layer(layer, depth)) for feature, layer in wanted]
        hidden = sorted({layer for feature, layer in asked if feature == "output"})
        projected = sorted({layer for feature, layer in asked if feature != "output"})
        pixels = torch.from_numpy(photograph.pixels.copy()).permute(2, 0, 1)[None]
        images = self._preprocess.normalise(pixels)
        if (
            not self._native
        ):  # by the setting: a photograph that happens to have the native size is padded like the others
            images = fit(images, self.patch, "pad")
        trace = self.backbone.trace(images, Capture(hidden=hidden, projected=projected))
        found = {}
        for feature, layer in asked:
            if feature == "output":
                tokens: Float[Tensor, "1 N D"] = trace.hidden(layer)
                layout = trace.layout_after(layer)
            else:
                tokens = getattr(trace.projected_qkv(layer), feature).transpose(1, 2).flatten(2)
                layout = trace.layout_before(layer)
            if not layout.whole:
                gone = int((~layout.present).sum())
                raise UserError(
                    f"{gone} of the {layout.num_patches} patches have no token in block {layer} of {self.backbone.spec}, and "
                    "objects are sought among all patches; choose a block that has them with --layer."
                )
            patches = layout.take(tokens)[0].detach().float()  # an edit may have switched gradients on
            if not bool(torch.isfinite(patches).all()):
                raise UserError(
                    f"the features of block {layer} are not finite in {self.backbone.dtype}; try --precision fp32."
                )
            found[feature, layer] = patches
        return found, trace.layout.grid

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.size is None:
            return height, width
        if not isinstance(self.size, int):
            return self.size
        scale = self.size / min(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))
