"""From a decoded picture to one randomly cropped and coloured view, as DeiT-III, CLIP and MAE train.

A view holds bytes; the device normalises them. All draws come from torch's global generator, which the loader seeds for
every sample. Crops are computed on byte tensors and colours by Pillow, whichever is faster.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as T
from torchvision.transforms.v2 import functional as V

from vitreg.data.views.settings import AugmentConfig
from vitreg.data.views.transforms import IMAGENET

View = Callable[[Image.Image], tuple[UInt8[Tensor, "V 3 h w"], ...]]

_PADDING = 4  # of the simple random crop, in pixels on each side
_LONGEST = 16  # times the short side: a longer strip is cut first, 20000 x 10 px would be resized to 448000 x 224


@dataclass(frozen=True, slots=True)
class SingleView:
    """One crop of a picture.

    Args:
        geometry: from the bytes of the picture to those of the crop.
        colours: what Pillow does to the crop, in this order.
    """

    geometry: Callable[[UInt8[Tensor, "3 H W"]], UInt8[Tensor, "3 h w"]]
    colours: tuple[Callable[[Image.Image], Image.Image], ...] = ()

    def __call__(self, image: Image.Image) -> tuple[UInt8[Tensor, "1 3 h w"]]:
        """Cut and colour one picture."""
        crop = self.geometry(to_bytes(image))
        if self.colours:
            picture = V.to_pil_image(crop)
            for change in self.colours:
                picture = change(picture)
            crop = to_bytes(picture)
        return (crop[None].contiguous(),)


class ThreeAugment:
    """Make a picture grey, solarise it from 128 on, or blur it with a radius from U(0.1, 2): exactly one (DeiT-III)."""

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Change one picture."""
        chosen = int(torch.randint(3, ()))
        if chosen == 0:
            return picture.convert("L").convert("RGB")
        if chosen == 1:
            return ImageOps.solarize(picture, 128)
        return picture.filter(ImageFilter.GaussianBlur(uniform(0.1, 2.0)))


class RandAugment:
    """timm's RandAugment with torch's randomness.

    Args:
        policy: as timm writes it, such as rand-m9-mstd0.5-inc1.
        size: of the crops in pixels, by which the longest absolute shift is chosen.
    """

    def __init__(self, policy: str, size: int) -> None:
        from timm.data.auto_augment import rand_augment_transform

        # As in timm's training transform: uncovered areas get the mean colour, and bicubic is fixed.
        self._augment = rand_augment_transform(
            policy,
            {
                "translate_const": int(size * 0.45),
                "img_mean": tuple(round(255 * value) for value in IMAGENET.mean),
                "interpolation": Image.Resampling.BICUBIC,
            },
        )

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Change one picture."""
        with foreign_draws(int(torch.randint(2**32, ()))):
            return self._augment(picture)


def deit3_view(size: int, config: AugmentConfig | None = None) -> View:
    """Crop and colour as DeiT-III: geometry and flip, then 3-Augment, then colour jitter.

    Args:
        size: of the crop in pixels.
        config: ImageNet-21k pre-training if unset.
    """
    config = config or AugmentConfig()
    if config.rand_augment is not None:
        colours: tuple[Callable[[Image.Image], Image.Image], ...] = (RandAugment(config.rand_augment, size),)
    else:
        jitter = T.ColorJitter(config.colour_jitter, config.colour_jitter, config.colour_jitter)
        colours = (ThreeAugment(),) * config.three_augment + (jitter,) * (config.colour_jitter > 0)
    crop = simple_random_crop(size) if config.crop == "src" else (random_resized_crop(size, config.scale),)
    return SingleView(T.Compose([*crop, T.RandomHorizontalFlip(config.flip)]), colours)


def clip_view(size: int, scale: tuple[float, float] = (0.9, 1.0)) -> View:
    """Crop as OpenCLIP trains: nearly the whole picture, not mirrored."""
    return SingleView(random_resized_crop(size, scale))


def mae_view(size: int, scale: tuple[float, float] = (0.2, 1.0)) -> View:
    """Crop as MAE trains: a fifth of the picture up to all of it, mirrored half of the time."""
    return SingleView(T.Compose([random_resized_crop(size, scale), T.RandomHorizontalFlip(0.5)]))


def random_resized_crop(size: int, scale: tuple[float, float]) -> T.RandomResizedCrop:
    """Cut a rectangle of 3:4 to 4:3 with `scale` of the picture's area, and resize it to a square; bicubic."""
    return T.RandomResizedCrop(size, scale=scale, interpolation=InterpolationMode.BICUBIC)


def simple_random_crop(size: int) -> tuple[Callable[[Tensor], Tensor], ...]:
    """Resize the short side to `size`, add 4 mirrored pixels all around, cut a square of `size` (DeiT-III's SRC).

    Small pictures are enlarged first, so the margin never has more pixels than the picture.

    Raises:
        ValueError: for crops of at most 4 pixels, which have no 4 pixels to mirror.
    """
    if size <= _PADDING:
        raise ValueError(f"a simple random crop of {size} px; wanted are more than {_PADDING}")
    resize = T.Resize(size, interpolation=InterpolationMode.BICUBIC)
    return _part_of_strip, resize, T.RandomCrop(size, padding=_PADDING, padding_mode="reflect")


def to_bytes(image: Image.Image) -> UInt8[Tensor, "3 H W"]:
    """Copy an RGB picture into a tensor, with the channels last in memory as in the picture."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def uniform(low: float, high: float) -> float:
    """Draw one number."""
    return low + (high - low) * float(torch.rand(()))


@contextmanager
def foreign_draws(seed: int) -> Generator[None, None, None]:
    """Seed Python's and numpy's global generators for a library's draws, and restore them afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _part_of_strip(image: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 h w"]:
    """Cut a random part out of a picture much longer than a crop can show."""
    height, width = image.shape[-2:]
    rows, cols = min(height, _LONGEST * width), min(width, _LONGEST * height)
    if (rows, cols) == (height, width):
        return image
    top, left = int(torch.randint(height - rows + 1, ())), int(torch.randint(width - cols + 1, ()))
    return image[:, top : top + rows, left : left + cols]
