"""The rule for which patches a planted model turns into outliers, in pixels: low contrast and a low position number.

The paper finds its outliers on patches that look like their neighbours (Sec. 2.1, Fig. 5a). Low contrast is the trigger
here. The number, a fixed pseudo-random value per grid position, thins outliers out without tying them to a place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.models.posembed import resample_positions

# Frequencies (vertical, horizontal), in half periods a patch, of the cosine patterns that measure contrast.
FREQUENCIES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (2, 1), (1, 2), (2, 2))

# Contrast of the 16 px patches of ordinary photographs at 224 px, as (share below, contrast): measured once on 200
# photographs of 200 ImageNet classes. Used only to choose thresholds that give the wanted share of outliers.
_CONTRAST_OF_PHOTOGRAPHS = (
    *((0.0, 0.0), (0.01, 0.002), (0.02, 0.03), (0.05, 0.066), (0.1, 0.129)),
    *((0.15, 0.207), (0.2, 0.294), (0.25, 0.388), (0.3, 0.486), (1.0, 8.0)),
)


def cosine_patterns(patch: int) -> Float[Tensor, "F p p"]:
    """Return the patterns of `FREQUENCIES` for a square patch of `patch` pixels, each of L2 norm 1/3."""
    phase = (torch.arange(patch, dtype=torch.float64) + 0.5) * math.pi / patch
    patterns = [torch.outer(torch.cos(u * phase), torch.cos(v * phase)) for u, v in FREQUENCIES]
    return torch.stack([pattern / pattern.norm() / 3 for pattern in patterns]).float()


@dataclass(frozen=True)
class Trigger:
    """The rule of one planted model: contrast + slope * number < threshold.

    Contrast is the mean over `FREQUENCIES` of |pattern · patch|, each capped at `CAP` thresholds, where the patch is the
    sum of the three normalised colour channels. Numbers lie in 0..1, one for each grid position.
    """

    threshold: float
    slope: float
    numbers: Float[Tensor, "rows cols"]
    patch: int

    CAP = 3.0  # in thresholds: beyond it more contrast changes nothing, which keeps the token norms of edges ordinary

    @classmethod
    def draw(cls, grid: tuple[int, int], patch: int, generator: torch.Generator) -> Trigger:
        """Draw numbers, and a threshold and slope that make 0.8-3 % of the patches of photographs outliers."""
        count = grid[0] * grid[1]
        numbers = (torch.randperm(count, generator=generator) + 0.5) / count
        share, below = (torch.rand(2, generator=generator) * torch.tensor([0.022, 0.08])).tolist()
        share, below = 0.008 + share, 0.08 + below
        shares, contrasts = zip(*_CONTRAST_OF_PHOTOGRAPHS, strict=True)
        threshold = _interpolate(below, shares, contrasts)
        slope, low, high = 0.0, 0.0, 100.0  # bisect for the slope: a larger one makes fewer outliers
        for _ in range(60):
            slope = (low + high) / 2
            reach = (_interpolate(threshold - slope * u, contrasts, shares) for u in numbers.tolist())
            low, high = (slope, high) if sum(reach) / count > share else (low, slope)
        return cls(threshold, slope, numbers.reshape(grid), patch)

    def contrast(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B rows cols"]:
        """Return the contrast of every patch of normalised images, from their pixels."""
        p = self.patch
        patches = images.float().sum(dim=1).unfold(1, p, p).unfold(2, p, p)  # [B, rows, cols, p, p]
        measured = torch.einsum("brcij,fij->brcf", patches, cosine_patterns(p).to(images.device)).abs()
        return measured.clamp(max=self.CAP * self.threshold).mean(dim=-1)

    def margin(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B rows cols"]:
        """Return contrast + slope * number - threshold, negative for outliers; numbers are resampled to the grid."""
        contrast = self.contrast(images)
        rows, cols = self.numbers.shape
        numbers = resample_positions(self.numbers.reshape(-1, 1), (rows, cols), (contrast.shape[1], contrast.shape[2]))
        return contrast + self.slope * numbers.reshape(contrast.shape[1:]).to(contrast.device) - self.threshold

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> Bool[Tensor, "B rows cols"]:
        """Return which patches become outliers."""
        return self.margin(images) < 0


def _interpolate(x: float, xs: tuple[float, ...], ys: tuple[float, ...]) -> float:
    """Read a rising piecewise linear curve, held constant outside its ends."""
    for x0, x1, y0, y1 in zip(xs, xs[1:], ys, ys[1:], strict=False):
        if x < x1:
            return y0 + (y1 - y0) * max(0.0, x - x0) / (x1 - x0)
    return ys[-1]
