"""Random crops of a picture together with its map, as ADE20k and NYUd heads are trained; no mmcv.

A view takes the picture as bytes and draws from its own generator, so that threads can make crops. Pictures
are resized as OpenCV does it, bilinear without antialias, and maps to the nearest pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as V

from vitreg.data.sets.settings import IGNORE
from vitreg.errors import UserError

PairView = Callable[[UInt8[Tensor, "3 H W"], Tensor, torch.Generator], tuple[UInt8[Tensor, "3 h w"], Tensor]]

NYUD_IMAGE = (480, 640)
_NYUD_INSIDE = (slice(45, 472), slice(43, 608))  # rows, cols: without the white frame of the projected depth
_NYUD_CROP = (416, 544)
_CROP_TRIES = 10


def ade20k_view(size: int, mean: Sequence[float]) -> PairView:
    """Crop as mmsegmentation trains on ADE20k.

    The short side becomes `size` times 0.5 to 2; of a random crop of `size` no class may fill three quarters (ten tries);
    half are mirrored, and colours change (`photometric`). Padding has the mean colour (mmsegmentation pads with zeros
    after normalising) and label 255.

    Args:
        mean: of the three channels, for values in 0..1, by which the crops will be normalised.
    """
    colour = torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8)

    def view(image: Tensor, labels: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        image, labels = resized_pair(image, labels, size * _between(draw, 0.5, 2))
        image, labels = _crop(image, labels, size, draw)
        if _chance(draw, 0.5):
            image, labels = image.flip(-1), labels.flip(-1)
        image = photometric(image, draw)
        height, width = labels.shape
        padded = colour[:, None, None].repeat(1, size, size)
        padded[:, :height, :width] = image
        return padded, F.pad(labels, (0, size - width, 0, size - height), value=IGNORE)

    return view


def nyud_view() -> PairView:
    """Crop as NYUd heads are trained, from pictures of 480 x 640 to crops of 416 x 544.

    The frame without depth is cut off, half are turned by up to 2.5 degrees, half mirrored, half coloured
    (`colour_of_light`).

    The view raises UserError for pictures of another size.
    """

    def view(image: Tensor, depth: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        size = (image.shape[-2], image.shape[-1])
        if size != NYUD_IMAGE:
            raise UserError(
                f"the published protocol wants NYUd's images of 480x640 pixels, not {size[0]}x{size[1]}; use --protocol short."
            )
        image, depth = image[(slice(None), *_NYUD_INSIDE)], depth[_NYUD_INSIDE]
        if _chance(draw, 0.5):
            angle = _between(draw, -2.5, 2.5)
            image = V.rotate(image, angle, interpolation=InterpolationMode.BILINEAR, fill=[0.0])
            depth = V.rotate(depth[None], angle, interpolation=InterpolationMode.NEAREST, fill=[0.0])[0]
        if _chance(draw, 0.5):
            image, depth = image.flip(-1), depth.flip(-1)
        top, left = (_below(draw, side - part + 1) for side, part in zip(depth.shape, _NYUD_CROP, strict=True))
        rows, cols = slice(top, top + _NYUD_CROP[0]), slice(left, left + _NYUD_CROP[1])
        image, depth = image[:, rows, cols], depth[rows, cols]
        return (colour_of_light(image, draw) if _chance(draw, 0.5) else image), depth

    return view


def resized_pair(
    image: UInt8[Tensor, "3 H W"], labels: Shaped[Tensor, "H W"], short: float
) -> tuple[UInt8[Tensor, "3 h w"], Shaped[Tensor, "h w"]]:
    """Resize so that the short side has `short` pixels."""
    size = resized_size((labels.shape[0], labels.shape[1]), short)
    nearest = F.interpolate(labels[None, None].float(), size, mode="nearest")[0, 0]
    return resized_image(image, size), nearest.to(labels.dtype)


def resized_size(size: Sequence[int], short: float) -> tuple[int, int]:
    """Return the size whose short side has `short` pixels, rounded as mmcv does."""
    factor = short / min(size)
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def resized_image(image: UInt8[Tensor, "3 H W"], size: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
    """Resize bilinearly without antialias."""
    values = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0]
    return values.round().clamp(0, 255).to(torch.uint8)


def photometric(image: UInt8[Tensor, "3 h w"], draw: torch.Generator) -> UInt8[Tensor, "3 h w"]:
    """Change colours as mmsegmentation's PhotoMetricDistortion: each of the following half of the time.

    Brightness +-32 of 255; contrast times 0.5 to 1.5, before or after the next two; saturation times 0.5 to 1.5; hue
    by -18 to 17 of the 180 steps that OpenCV has for the circle.
    """
    values = image.float()
    if _chance(draw, 0.5):
        values = _bytes(values + _between(draw, -32, 32))
    contrast = _between(draw, 0.5, 1.5) if _chance(draw, 0.5) else 1.0
    contrast_first = _chance(draw, 0.5)
    if contrast_first:
        values = _bytes(values * contrast)
    saturation = _between(draw, 0.5, 1.5) if _chance(draw, 0.5) else 1.0
    hue = _below(draw, 36) - 18 if _chance(draw, 0.5) else 0
    if saturation != 1 or hue:
        values = _saturated_and_turned(values, saturation, hue / 180)
    if not contrast_first:
        values = _bytes(values * contrast)
    return values.to(torch.uint8)


def colour_of_light(image: UInt8[Tensor, "3 h w"], draw: torch.Generator) -> UInt8[Tensor, "3 h w"]:
    """Gamma 0.9 to 1.1, brightness times 0.75 to 1.25, each channel times 0.9 to 1.1, on values of 0 to 1 (BTS)."""
    values = (image.float() / 255) ** _between(draw, 0.9, 1.1) * _between(draw, 0.75, 1.25)
    channels = torch.tensor([_between(draw, 0.9, 1.1) for _ in range(3)])
    return (values * channels[:, None, None] * 255).round().clamp(0, 255).to(torch.uint8)


def _crop(image: Tensor, labels: Tensor, size: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut a random crop; take the first of ten in which no class has three quarters of the labelled pixels, or the last."""
    height, width = labels.shape
    rows = cols = slice(0)
    for _ in range(_CROP_TRIES):
        top, left = _below(draw, max(0, height - size) + 1), _below(draw, max(0, width - size) + 1)
        rows, cols = slice(top, top + size), slice(left, left + size)
        part = labels[rows, cols]
        counts = torch.bincount(part[part != IGNORE].flatten().long())
        if int((counts > 0).sum()) > 1 and counts.max() / counts.sum() < 0.75:
            break
    return image[:, rows, cols], labels[rows, cols]


def _saturated_and_turned(values: Float32[Tensor, "3 h w"], saturation: float, turn: float) -> Float32[Tensor, "3 h w"]:
    """Multiply the saturation, and turn the hue by a share of the circle, in Pillow's 8-bit HSV."""
    picture = Image.fromarray(values.to(torch.uint8).permute(1, 2, 0).numpy())
    hsv = np.array(picture.convert("HSV")).astype(np.float32)  # [h, w, 3]
    hsv[..., 0] = (hsv[..., 0] + round(turn * 256)) % 256
    hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 255)
    changed = Image.fromarray(hsv.astype(np.uint8), mode="HSV").convert("RGB")
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1).float()


def _bytes(values: Float32[Tensor, "3 h w"]) -> Float32[Tensor, "3 h w"]:
    """Cut to what a byte holds: every step of the distortion writes bytes."""
    return values.clamp(0, 255).floor()


def _between(draw: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=draw))


def _below(draw: torch.Generator, count: int) -> int:
    return int(torch.randint(count, (), generator=draw))


def _chance(draw: torch.Generator, share: float) -> bool:
    return float(torch.rand((), generator=draw)) < share
