"""Scores of segmentation and depth maps: mean intersection over union, and the usual depth errors.

Classes are counted over a whole set before they are divided; errors of depth are averaged over images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from vitreg.probes.dense.losses import IGNORE

DEPTH_ERRORS = ("rmse", "abs_rel", "log10", "silog", "a1", "a2", "a3")
_EIGEN = (slice(45, 471), slice(41, 601))  # of 480 x 640 pixels: rows, cols


class Overlaps:
    """Counts pixels by true and predicted class over many images; pixels labelled 255 do not count.

    Args:
        classes: C.

    Attributes:
        confusion: rows are true classes, columns predicted ones.
    """

    def __init__(self, classes: int) -> None:
        self.confusion: Int64[Tensor, "C C"] = torch.zeros(classes, classes, dtype=torch.int64)

    def add(self, predicted: Int64[Tensor, "*any"], truth: Int64[Tensor, "*any"]) -> None:
        """Count the pixels of an image.

        Raises:
            ValueError: for maps of different shapes, or classes outside 0..C-1.
        """
        classes = len(self.confusion)
        if predicted.shape != truth.shape:
            raise ValueError(f"a prediction of {list(predicted.shape)} for labels of {list(truth.shape)}")
        counted = truth != IGNORE
        found, true = predicted[counted].long(), truth[counted].long()
        if len(true) and (min(true.min(), found.min()) < 0 or max(true.max(), found.max()) >= classes):
            raise ValueError(f"labels {true.min()}..{true.max()} and predictions outside 0..{classes - 1}")
        self.confusion += torch.bincount(true * classes + found, minlength=classes**2).view(classes, classes).cpu()

    def iou(self) -> Float64[Tensor, " C"]:
        """Intersection over union of each class.

        A class that is predicted somewhere but never true has 0; one that is neither has NaN.
        """
        both = self.confusion.diagonal().double()
        return both / (self.confusion.sum(0) + self.confusion.sum(1) - self.confusion.diagonal())

    def scores(self) -> dict[str, float]:
        """Return `miou`, `pixel_accuracy` and `class_accuracy` (mean over classes), in percent.

        Raises:
            ValueError: if no pixel was counted.
        """
        if not self.confusion.any():
            raise ValueError("no labelled pixel was counted")
        right, true = self.confusion.diagonal().double(), self.confusion.sum(1)
        return {
            "miou": 100 * self.iou().nanmean().item(),
            "pixel_accuracy": 100 * (right.sum() / true.sum()).item(),
            "class_accuracy": 100 * (right / true).nanmean().item(),
        }


class DepthScores:
    """Errors of depth, of each image and then averaged over images (RMSE too, as the official code does)."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(DEPTH_ERRORS, 0.0)
        self.images = 0

    def add(self, errors: dict[str, float]) -> None:
        """Add the errors of one image, as `depth_errors` returns them."""
        self.images += 1
        for name in DEPTH_ERRORS:
            self._sums[name] += errors[name]

    def mean(self) -> dict[str, float]:
        """Average over the images. Raises ValueError if there was none."""
        if not self.images:
            raise ValueError("no image was scored")
        return {name: value / self.images for name, value in self._sums.items()}


def depth_errors(
    depth: Float[Tensor, "H W"],
    truth: Float[Tensor, "H W"],
    *,
    counted: Bool[Tensor, "H W"] | None = None,
    low: float = 1e-3,
    high: float = 10.0,
) -> dict[str, float] | None:
    """Compare the depths of one image, over pixels whose true depth lies between `low` and `high`, both excluded.

    >>> rmse = sqrt(mean((d - t) ** 2)); abs_rel = mean(|d - t| / t); log10 = mean(|log10(d) - log10(t)|)
    >>> silog = 100 * sqrt(mean(g ** 2) - mean(g) ** 2)                               # g = log(d) - log(t)
    >>> a1 = 100 * mean(max(d / t, t / d) < 1.25)                                     # a2: 1.25 ** 2, a3: 1.25 ** 3

    Args:
        depth: in metres; cut to low..high first.
        counted: further pixels to leave out, such as those outside `eigen_crop`.
    Returns:
        rmse in metres, abs_rel and log10 as they are, silog, a1, a2 and a3 in percent; None where no pixel counts.
    """
    counts = (truth > low) & (truth < high)
    if counted is not None:
        counts &= counted
    if not counts.any():
        return None
    d, t = depth[counts].double().clamp(low, high), truth[counts].double()
    g = d.log() - t.log()
    ratio = torch.maximum(d / t, t / d)
    return {
        "rmse": (d - t).square().mean().sqrt().item(),
        "abs_rel": ((d - t).abs() / t).mean().item(),
        "log10": g.abs().mean().item() / math.log(10),
        "silog": 100 * g.var(correction=0).sqrt().item(),
        **{f"a{n}": 100 * (ratio < 1.25**n).double().mean().item() for n in (1, 2, 3)},
    }


def eigen_crop(size: Sequence[int]) -> Bool[Tensor, "H W"] | None:
    """Return the pixels of a 480 x 640 image that NYUd is judged on (Eigen et al. 2014); None for other sizes."""
    if tuple(size) != (480, 640):
        return None
    counted = torch.zeros(tuple(size), dtype=torch.bool)
    counted[_EIGEN] = True
    return counted
