"""Random crops of a picture together with its map: a class for every pixel, or numbers on a grid.

As in `augment`, all draws come from torch's global generator, which the loader seeds for every sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as V

from vitreg.data.views.augment import to_bytes

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


@dataclass(frozen=True, slots=True)
class PairedView:
    """One crop of a picture and the same crop of its map, mirrored half of the time.

    Args:
        size: side of the crop in pixels.
        scale: smallest and largest share of the picture's area that the crop covers.
        grid: (rows, cols) of the numbers of a crop, for maps of numbers on a grid; classes of pixels keep the size of
            the crop.
    """

    size: int
    scale: tuple[float, float] = (0.3, 1.0)
    grid: tuple[int, int] | None = None

    def __call__(
        self, image: Image.Image, known: Shaped[np.ndarray, "..."]
    ) -> tuple[tuple[UInt8[Tensor, "1 3 h w"]], Tensor]:
        """Cut one picture and its map.

        Args:
            known: classes uint8 [H, W] of the picture's pixels, or numbers float [rows, cols, C] that cover the picture.
        Returns:
            the crop; and classes [h, w], nearest, or numbers [rows, cols, C] of its own grid, bilinear.
        """
        pixels = to_bytes(image)
        box: Box = RandomResizedCrop.get_params(pixels, list(self.scale), [3 / 4, 4 / 3])
        cut = V.resized_crop(
            pixels, *box, [self.size, self.size], interpolation=InterpolationMode.BICUBIC, antialias=True
        )
        target = self._numbers(known, box, image) if self.grid is not None else self._classes(known, box)
        if float(torch.rand(())) < 0.5:
            cut, target = cut.flip(-1), target.flip(1)
        return (cut[None].contiguous(),), target.contiguous()

    def _classes(self, known: np.ndarray, box: Box) -> UInt8[Tensor, "h w"]:
        classes = torch.from_numpy(np.array(known))[None]
        return V.resized_crop(classes, *box, [self.size, self.size], interpolation=InterpolationMode.NEAREST_EXACT)[0]

    def _numbers(self, known: np.ndarray, box: Box, image: Image.Image) -> Float32[Tensor, "rows cols C"]:
        assert self.grid is not None
        numbers = torch.from_numpy(np.array(known, np.float32)).permute(2, 0, 1)[None]
        top, left, height, width = box
        rows, cols = (
            (start + length * (torch.arange(count) + 0.5) / count) / side * 2 - 1  # centres of the cells, -1..1
            for start, length, count, side in (
                (top, height, self.grid[0], image.height), (left, width, self.grid[1], image.width),
            )
        )  # fmt: skip
        places = torch.stack([cols.expand(self.grid), rows[:, None].expand(self.grid)], dim=-1)[None]
        return F.grid_sample(numbers, places, padding_mode="border", align_corners=False)[0].permute(1, 2, 0)


@dataclass(frozen=True, slots=True)
class WholeView:
    """The whole picture and its numbers, as they are; a picture of another size is resized.

    Args:
        size: side of the picture in pixels.
    """

    size: int

    def __call__(
        self, image: Image.Image, known: Float32[np.ndarray, "rows cols C"]
    ) -> tuple[tuple[UInt8[Tensor, "1 3 h w"]], Tensor]:
        """Return the picture and the numbers."""
        pixels = to_bytes(image)
        if pixels.shape[-2:] != (self.size, self.size):
            pixels = V.resize(pixels, [self.size, self.size], InterpolationMode.BICUBIC, antialias=True)
        return (pixels[None].contiguous(),), torch.from_numpy(np.array(known, np.float32))


def paired_view(size: int, scale: tuple[float, float] = (0.3, 1.0), grid: tuple[int, int] | None = None) -> PairedView:
    """Make the view of a recipe that `needs` masks, or, with a grid, numbers for every patch."""
    return PairedView(size, scale, grid)
