"""From a decoded picture to DINO's and DINOv2's multi-crop: two large crops and several small ones, coloured differently.

The recipe compares the small crops with the large ones. As in `augment.py`, a view holds bytes and draws only from
torch's global generator. On a CPU, colour jitter and enlarging take most of the time.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import UInt8
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import v2 as T
from torchvision.transforms.v2 import functional as V

from vitreg.data.views.augment import View, random_resized_crop, to_bytes, uniform
from vitreg.data.views.settings import BLUR_RADIUS, MultiCropConfig

# Probability to blur the first global crop, the second one, and a local one. DINOv2 hands 1 - p to torchvision, which
# reads it as the probability to apply; every released model was trained so.
BLUR = {"official": (0.0, 0.9, 0.5), "intended": (1.0, 0.1, 0.5)}
_SIGMA = (0.1, 2.0)


def multicrop_view(size: int, config: MultiCropConfig | None = None) -> View:
    """Build a view with two stacks: [2, 3, size, size] and the local crops; without local crops only the first.

    Args:
        size: of the two global crops in pixels.
        config: DINOv2's if unset.
    """
    config = config or MultiCropConfig()
    first, second, local = BLUR[config.blur]
    return MultiCrop(
        (
            Crop(size, config.global_scale, blur=first, solarize=0.0, config=config),
            Crop(size, config.global_scale, blur=second, solarize=config.solarize, config=config),
        ),
        (Crop(config.local_size, config.local_scale, blur=local, solarize=0.0, config=config),) * config.local_crops,
    )


class MultiCrop:
    """Crops of one picture, stacked by size."""

    def __init__(self, *stacks: tuple[Crop, ...]) -> None:
        self.stacks = tuple(stack for stack in stacks if stack)

    def __call__(self, image: Image.Image) -> tuple[UInt8[Tensor, "V 3 h w"], ...]:
        """Cut and colour one picture."""
        picture = to_bytes(image)
        return tuple(torch.stack([crop(picture) for crop in stack]) for stack in self.stacks)


class Crop:
    """One random crop: place and size, flip, colour jitter, grey, blur, solarise, in this order.

    Args:
        size: of the crop in pixels.
        scale: share of the picture's area it shows.
        blur: chance to blur it.
        solarize: chance to solarise it.
        config: the other settings.
    """

    def __init__(
        self, size: int, scale: tuple[float, float], *, blur: float, solarize: float, config: MultiCropConfig
    ) -> None:
        self.place = random_resized_crop(size, scale)
        self.colours = T.ColorJitter(*config.colour_jitter)
        self.blur_filter = config.blur_filter
        self.chances = torch.tensor([config.flip, config.jitter, config.grey, blur, solarize])

    def __call__(self, picture: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 h w"]:
        """Cut and colour one picture."""
        flip, jitter, grey, blur, solarize = (torch.rand(5) < self.chances).tolist()
        crop = self.place(picture)
        if flip:
            crop = V.horizontal_flip(crop)
        if jitter:
            crop = to_bytes(self.colours(V.to_pil_image(crop)))
        if grey:
            crop = V.rgb_to_grayscale(crop, num_output_channels=3)
        if blur:
            crop = self._blur(crop, uniform(*_SIGMA))
        if solarize:
            crop = torch.minimum(crop, 255 - crop)  # inverts what is 128 or more
        return crop.contiguous()

    def _blur(self, crop: UInt8[Tensor, "3 h w"], strength: float) -> UInt8[Tensor, "3 h w"]:
        if self.blur_filter == "gauss9":
            return gaussian_blur(crop, strength)
        return to_bytes(V.to_pil_image(crop).filter(ImageFilter.GaussianBlur(strength)))


def gaussian_blur(image: UInt8[Tensor, "3 h w"], sigma: float) -> UInt8[Tensor, "3 h w"]:
    """Convolve with a Gaussian cut to 9 pixels, mirrored at the border.

    torchvision's `gaussian_blur(image, 9, sigma)` up to rounding, in a quarter of the time: columns, then rows.

    Args:
        image: of at least 5 pixels on each side.
        sigma: in pixels.
    """
    height, width = image.shape[-2:]
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-BLUR_RADIUS, BLUR_RADIUS + 1)]
    weights = [weight / sum(weights) for weight in weights]
    x = torch.nn.functional.pad(image.float(), (BLUR_RADIUS,) * 4, mode="reflect")  # [3, h + 8, w + 8]
    x = _weighted_sum([x[:, :, start : start + width] for start in range(len(weights))], weights)  # [3, h + 8, w]
    x = _weighted_sum([x[:, start : start + height] for start in range(len(weights))], weights)  # [3, h, w]
    return x.round_().to(torch.uint8)


def _weighted_sum(terms: list[Tensor], weights: list[float]) -> Tensor:
    total = terms[0] * weights[0]
    for term, weight in zip(terms[1:], weights[1:], strict=True):
        total.add_(term, alpha=weight)
    return total
