"""Linear heads that read a value for every pixel out of frozen patch tokens: classes and metric depth.

Both are the heads of DINOv2's dense evaluations, which the paper uses for ADE20k and NYUd (Tab. 2a), on patch tokens of
any model. Other tokens, registers included, are removed beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

UPSAMPLE = 4  # factor on the patch grid at which depth is computed from the bins
_FLOOR = 0.1  # added to each bin's weight, so that their sum is never 0


class LinearSegmenter(nn.Module):
    """Batch norm, then one linear layer from a patch token to the logits of the classes (DINOv2, ADE20k "lin.").

    Weights start from N(0, 0.01) and biases from 0, as in mmsegmentation.

    Args:
        width: D, length of a patch token.
        classes: C.
        seed: of the weights.
    """

    def __init__(self, width: int, classes: int, seed: int = 0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.linear = nn.Linear(width, classes)
        with torch.no_grad():
            start = torch.randn(self.linear.weight.shape, generator=torch.Generator().manual_seed(seed))
            self.linear.weight.copy_(0.01 * start)
            self.linear.bias.zero_()

    def forward(self, patches: Float[Tensor, "B P D"], grid: tuple[int, int]) -> Float[Tensor, "B C rows cols"]:
        """Return the logits of every patch."""
        logits = self.linear(self.norm(patches.float().flatten(0, 1)))  # [B * P, C]
        return logits.unflatten(0, patches.shape[:2]).transpose(1, 2).unflatten(2, grid)

    def at(
        self, patches: Float[Tensor, "B P D"], grid: tuple[int, int], size: tuple[int, int]
    ) -> Float[Tensor, "B C H W"]:
        """Return the logits of every pixel of an image of `size` pixels, or of points spread evenly over it."""
        return resized(self(patches, grid), size)


class BinsDepth(nn.Module):
    """Depth as the mean of fixed bins, weighted by one linear layer (DINOv2, NYUd "lin. 1" and "lin. 4").

    >>> x = [upsample(concat(patches, cls repeated at every patch), 4) for every block]      # 2 D channels each
    >>> weight = relu(linear(concat(x))) + 0.1                                               # one for each bin
    >>> depth = sum(weight / sum(weight) * linspace(0.001, 10, 256))

    The head of the official code is called BNHead but holds no batch norm.

    Args:
        widths: length of the vector at a patch, of each block that is read: 2 D with the class token, else D.
        bins: number of depths.
        low, high: the nearest and the farthest bin in metres.
        seed: of the weights, which start uniform in +-1 / sqrt(inputs), as PyTorch's convolutions do.
    """

    bins: Tensor

    def __init__(
        self, widths: Sequence[int], bins: int = 256, low: float = 0.001, high: float = 10.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(sum(widths), bins)
        bound = sum(widths) ** -0.5
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in (self.linear.weight, self.linear.bias):
                parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
        self.register_buffer("bins", torch.linspace(low, high, bins))

    def forward(
        self, patches: Sequence[Float[Tensor, "B P D"]], cls: Sequence[Float[Tensor, "B D"]], grid: tuple[int, int]
    ) -> Float[Tensor, "B rows4 cols4"]:
        """Return the depth in metres on a lattice of 4 x 4 points per patch.

        Args:
            patches: of each block that is read.
            cls: of the same blocks; empty to do without.
        Raises:
            ValueError: for another number of class tokens than of blocks.
        """
        if cls and len(cls) != len(patches):
            raise ValueError(f"class tokens of {len(cls)} blocks for patch tokens of {len(patches)}")
        parts = []
        for block, tokens in enumerate(patches):
            parts.append(tokens.float())
            if cls:
                parts.append(cls[block].float()[:, None].expand_as(tokens))
        logits = self.linear(torch.cat(parts, dim=-1))  # [B, P, bins]
        # A linear layer and bilinear interpolation commute: applied first, the layer sees a sixteenth of the points.
        down, right = (_interpolation(side, logits.device) for side in grid)
        fine = down @ (logits.transpose(1, 2).unflatten(2, grid) @ right.T)  # [B, bins, rows4, cols4]
        weight = fine.relu()
        # One pass for both sums: memory bandwidth is the limit at this size.
        sums = torch.einsum("bkhw,ck->bchw", weight, torch.stack([self.bins, torch.ones_like(self.bins)]))
        weighted, total = sums.unbind(1)
        return (weighted + _FLOOR * self.bins.sum()) / (total + _FLOOR * len(self.bins))


def _interpolation(side: int, device: torch.device) -> Float[Tensor, "side4 side"]:
    """Return `resized` along one axis as a matrix: on a CPU its product is several times faster, backwards too."""
    return F.interpolate(torch.eye(side, device=device)[None], UPSAMPLE * side, mode="linear")[0].T


def resized(maps: Float[Tensor, "B C h w"], size: Sequence[int]) -> Float[Tensor, "B C H W"]:
    """Interpolate between the centres of pixels (`align_corners` False), without antialias; size is (height, width)."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, list(size), mode="bilinear", align_corners=False)


def classified(logits: Float[Tensor, "B C h w"], size: Sequence[int], at_once: int = 16) -> Int64[Tensor, "B H W"]:
    """Return the class of the largest interpolated logit of every pixel, without holding all logits of a large image.

    Args:
        at_once: classes whose logits are held at full size.
    """
    best = labels = None
    for first in range(0, logits.shape[1], at_once):
        values, found = resized(logits[:, first : first + at_once], size).max(1)  # [B, H, W]
        if best is None or labels is None:
            best, labels = values, found
        else:
            labels = torch.where(values > best, found + first, labels)
            best = torch.maximum(values, best)
    assert labels is not None  # there is a class
    return labels
