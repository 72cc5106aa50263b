"""Boxes in patches and pixels, and the share of correct boxes (CorLoc).

A box in patches is (row0, col0, row1, col1), one in pixels (x0, y0, x1, y1); both count from 0 and exclude their end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

Box = tuple[int, int, int, int]  # (row0, col0, row1, col1) in patches
PixelBox = tuple[float, float, float, float]  # (x0, y0, x1, y1) in pixels

_EPS = 1e-7
_SIDES = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])  # neighbours share a side


def component(mask: Bool[Tensor, "rows cols"], seed: int) -> Bool[Tensor, "rows cols"]:
    """Return the 4-connected component of a mask at the seed; the seed alone if the mask excludes it.

    Args:
        seed: index of a patch, row-major.
    """
    labels = np.empty(mask.shape, dtype=np.int32)
    scipy.ndimage.label(mask.cpu().numpy(), structure=_SIDES, output=labels)
    own = labels.flat[seed]
    if own:
        return torch.from_numpy(labels == own)
    alone = torch.zeros(mask.shape, dtype=torch.bool)
    alone.view(-1)[seed] = True
    return alone


def enclosing(mask: Bool[Tensor, "rows cols"]) -> Box:
    """Return the smallest box around a mask that is not empty."""
    rows, cols = mask.any(1).nonzero(), mask.any(0).nonzero()
    return int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1


def to_pixels(box: Box, patch: tuple[int, int], image_size: tuple[int, int]) -> PixelBox:
    """Turn a box of patches into (x0, y0, x1, y1), cut to the image where padding to whole patches overhangs it.

    The padding is below and to the right, as in LOST, so that the image begins where the grid does.

    Args:
        patch: (height, width) of a patch in pixels.
        image_size: (height, width) of the image before it was padded.
    Raises:
        ValueError: if the box begins outside the image, which is then not the one the box was found in.
    """
    row0, col0, row1, col1 = box
    height, width = image_size
    y0, x0, y1, x1 = row0 * patch[0], col0 * patch[1], row1 * patch[0], col1 * patch[1]
    if y0 >= height or x0 >= width:
        raise ValueError(
            f"a box from pixel (x {x0}, y {y0}) lies outside an image of {width}x{height} (width x height)"
        )
    return x0, y0, min(x1, width), min(y1, height)


def iou(a: Float[Tensor, "A 4"], b: Float[Tensor, "B 4"]) -> Float64[Tensor, "A B"]:
    """Intersection over union of every pair of boxes (x0, y0, x1, y1), in the convention of LOST's official code.

    It adds 1e-7 to heights and to the union only, so that boxes without area give 0 instead of NaN.

    >>> for i, (x0, y0, x1, y1) in enumerate(a):
    ...     for j, (u0, v0, u1, v1) in enumerate(b):
    ...         both = max(min(x1, u1) - max(x0, u0), 0) * max(min(y1, v1) - max(y0, v0), 0)
    ...         areas = (x1 - x0) * (y1 - y0 + 1e-7) + (u1 - u0) * (v1 - v0 + 1e-7)
    ...         out[i, j] = both / (areas - both + 1e-7)
    """
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    sides = torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(a[:, None, :2], b[None, :, :2])
    both = sides.clamp(min=0).prod(-1)
    return both / (_area(a)[:, None] + _area(b) - both + _EPS)


def _area(boxes: Float64[Tensor, "A 4"]) -> Float64[Tensor, " A"]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1] + _EPS)


def hits(
    predicted: Sequence[PixelBox] | Float[Tensor, "n 4"], truth: Sequence[Float[Tensor, "objects 4"]]
) -> Bool[Tensor, " n"]:
    """Tell for each image whether its box has an IoU of at least 0.5 with any of its true ones.

    Args:
        predicted: one box for each image, (x0, y0, x1, y1).
        truth: boxes of all objects of each image. An image without any cannot be hit, and counts as missed.
    Raises:
        ValueError: if the two are not of the same images.
    """
    if len(predicted) != len(truth):
        raise ValueError(f"{len(predicted)} boxes for the objects of {len(truth)} images")
    found = torch.as_tensor(predicted, dtype=torch.float64).reshape(-1, 4)
    objects = (torch.as_tensor(boxes).reshape(-1, 4) for boxes in truth)
    # Exactly one half is a hit: in the float32 of the official code the added 1e-7 vanishes beside whole pixels.
    each = [bool((iou(own[None], boxes) >= 0.5 - _EPS).any()) for own, boxes in zip(found, objects, strict=True)]
    return torch.tensor(each, dtype=torch.bool)


def corloc(predicted: Sequence[PixelBox] | Float[Tensor, "n 4"], truth: Sequence[Float[Tensor, "objects 4"]]) -> float:
    """Share of images whose box has an IoU of at least 0.5 with any true one: CorLoc (Deselaers et al. 2010), 0 to 1.

    Raises:
        ValueError: if there are no images, or as `hits` does.
    """
    found = hits(predicted, truth)
    if not len(found):
        raise ValueError("no image to judge a box on")
    return found.double().mean().item()


def centre_box(image_size: tuple[int, int], share: float) -> PixelBox:
    """Return a box in the middle of an image, with its proportions: the control that ignores the content.

    Photographers centre their objects, so a method has to find more than this box does.

    Args:
        image_size: (height, width) in pixels.
        share: of the image's area that the box covers, above 0 and at most 1.
    Raises:
        ValueError: for another share.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a box cannot cover {share} of an image")
    height, width = image_size
    x, y = width * (1 - share**0.5) / 2, height * (1 - share**0.5) / 2
    return x, y, width - x, height - y
