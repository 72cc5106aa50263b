"""Predictions for images larger than a head's training crops: overlapping windows, averaged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Return where windows start along a side: `stride` apart, the last moved back so that it ends with the image."""
    count = max(0, -(-(side - window) // stride)) + 1
    return [max(0, min(index * stride, side - window)) for index in range(count)]


def over_windows(
    logits: Callable[[Float[Tensor, "B 3 h w"]], Float[Tensor, "B C h w"]],
    images: Float[Tensor, "B 3 H W"],
    window: int = 512,
    stride: int = 341,
) -> Float[Tensor, "B C H W"]:
    """Average the logits of all windows that hold a pixel (mmsegmentation's "slide"; 512 and 341 on ADE20k).

    Args:
        logits: crop -> logits of its pixels; crops are smaller than the window where the image is.
        window, stride: in pixels.
    """
    height, width = images.shape[-2:]
    total = torch.zeros(())
    counts = torch.zeros(height, width, device=images.device)
    for top in window_starts(height, window, stride):
        for left in window_starts(width, window, stride):
            rows, cols = slice(top, min(height, top + window)), slice(left, min(width, left + window))
            part = logits(images[..., rows, cols])
            if not total.ndim:
                total = part.new_zeros(*part.shape[:2], height, width)
            total[..., rows, cols] += part
            counts[rows, cols] += 1
    return total / counts
