"""The terms of logistic regression: features along their principal axes, and the losses with their gradients.

Losses and residuals keep their relative accuracy in float32 for separable classes: both are sums of small numbers,
never differences of large ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from vitreg.probes.rows import Rows, chunks

_BLOCK = 16384  # images at a time
_NUMBERS = 1 << 24  # logits at a time
_FLAT = 1e-12  # of the largest variance: axes below it hold rounding errors only

Point = Float64[Tensor, "k r1"]


class Features:
    """Features of n images, centred; coordinates of weights lie along their r principal axes.

    Attributes:
        count: n.
        rank: r, at most D and n - 1.
        spread: variance along each axis, and 1 for the intercept.
        penalised: 1 for each axis, 0 for the intercept.
    """

    def __init__(self, rows: Rows, device: torch.device, memory: int) -> None:
        self._rows, self._device = rows, device
        self.count, width = rows.shape
        self._mean, covariance = self._moments(width)
        variances, axes = torch.linalg.eigh(covariance)
        keep = variances > _FLAT * variances[-1].clamp_min(torch.finfo(torch.float64).tiny)
        keep[: max(0, width - self.count + 1)] = False  # n centred points span n - 1 dimensions
        self._axes = axes[:, keep].float()  # [D, r]
        self.rank = self._axes.shape[1]
        ones = torch.ones(1, dtype=torch.float64, device=device)
        self.spread = torch.cat([variances[keep], ones])
        self.penalised = torch.cat([torch.ones_like(variances[keep]), 0 * ones])
        self._turned: Tensor | None = None
        if 4 * self.count * self.rank <= memory:
            turned = torch.empty(self.count, self.rank, device=device)
            for place, part in self._centred():
                torch.mm(part, self._axes, out=turned[place])
            self._turned = turned

    def blocks(self, columns: int) -> Iterator[tuple[slice, Float[Tensor, "b d"]]]:
        """Yield all images, along the axes where they fit into memory, else centred; see `weights` and `gradient`."""
        size = max(1, min(_BLOCK, _NUMBERS // columns))
        if self._turned is None:
            yield from self._centred(size)
            return
        for start in range(0, self.count, size):
            place = slice(start, start + size)
            yield place, self._turned[place]

    def weights(self, point: Point) -> Float[Tensor, "k d"]:
        """Return the weights that belong to the rows of `blocks`."""
        weights = point[:, :-1].float()
        return weights if self._turned is not None else weights @ self._axes.T

    def gradient(self, products: Float[Tensor, "k d"]) -> Float64[Tensor, "k r"]:
        """Return the gradient along the axes from the one that belongs to the rows of `blocks`."""
        return (products if self._turned is not None else products @ self._axes).double()

    def in_features(self, point: Point) -> tuple[Float[Tensor, "k D"], Float[Tensor, " k"]]:
        """Return weights and intercepts for the features as they were given, on the CPU."""
        weights = point[:, :-1] @ self._axes.double().T
        return weights.float().cpu(), (point[:, -1] - weights @ self._mean).float().cpu()

    def _centred(self, size: int = _BLOCK) -> Iterator[tuple[slice, Float[Tensor, "b D"]]]:
        mean = self._mean.float()
        for place, part in chunks(self._rows, size):
            yield place, part.to(self._device) - mean

    def _moments(self, width: int) -> tuple[Float64[Tensor, " D"], Float64[Tensor, "D D"]]:
        """Mean and covariance, about the mean of the first images so that nothing cancels."""
        shift = torch.zeros(width, dtype=torch.float64, device=self._device)
        total, products = torch.zeros_like(shift), torch.zeros(width, width, dtype=torch.float64, device=self._device)
        for place, part in chunks(self._rows, _BLOCK):
            part = part.to(self._device).double()
            if place.start == 0:
                shift = part.mean(0)
            part = part - shift
            total += part.sum(0)
            products.addmm_(part.T, part)
        offset = total / self.count
        return shift + offset, products / self.count - torch.outer(offset, offset)


class Terms(Protocol):
    """Mean loss over the images plus the penalty, with its gradient."""

    columns: int

    def __call__(self, features: Features, point: Point, penalty: float) -> tuple[float, Point]:
        """Return mean loss + penalty / 2 * ||W||^2 and its gradient."""
        ...

    def curvature(self, features: Features, point: Point) -> Float64[Tensor, " k"]:
        """Return the mean second derivative of the loss by each logit; never 0."""
        ...


class _Losses(ABC):
    """Common base of softmax and sigmoids. Logits are [k, b], so sums over images run along memory."""

    def __init__(self, columns: int) -> None:
        self.columns = columns

    @abstractmethod
    def losses(self, logits: Float[Tensor, "k b"], place: slice) -> tuple[Tensor, Float[Tensor, "k b"]]:
        """Return losses (their sum counts) and derivatives by the logits; may write into `logits`."""

    def __call__(self, features: Features, point: Point, penalty: float) -> tuple[float, Point]:
        weights, intercept = features.weights(point), point[:, -1:].float()
        total = point.new_zeros(())
        products, sums = torch.zeros_like(weights), torch.zeros_like(point[:, -1])
        for place, block in features.blocks(self.columns):
            losses, residuals = self.losses(torch.addmm(intercept, weights, block.T), place)
            total += losses.sum(dtype=torch.float64)
            products.addmm_(residuals, block)
            sums += residuals.sum(1, dtype=torch.float64)
        gradient = torch.cat([features.gradient(products), sums[:, None]], 1) / features.count
        gradient[:, :-1] += penalty * point[:, :-1]
        return float(total / features.count + penalty / 2 * point[:, :-1].square().sum()), gradient

    def curvature(self, features: Features, point: Point) -> Float64[Tensor, " k"]:
        weights, intercept = features.weights(point), point[:, -1:].float()
        total = torch.zeros_like(point[:, -1])
        for place, block in features.blocks(self.columns):
            _, residuals = self.losses(torch.addmm(intercept, weights, block.T), place)
            # A residual is p or p - 1, so this is p (1 - p).
            size = residuals.abs_()
            total += torch.addcmul(size, size, size, value=-1).sum(1, dtype=torch.float64)
        return (total / features.count).clamp_min(1e-12)


class Softmax(_Losses):
    """Cross-entropy of k classes."""

    def __init__(self, labels: Int64[Tensor, " n"], classes: int) -> None:
        super().__init__(classes)
        self._labels = labels[None]

    def losses(self, logits: Float[Tensor, "k b"], place: slice) -> tuple[Tensor, Float[Tensor, "k b"]]:
        """Residuals: the distance of each image's class from probability 1."""
        own = self._labels[:, place]  # [1, b]
        logits.sub_(logits.gather(0, own))
        most = logits.amax(0, keepdim=True)  # at least 0, the own class
        others = logits.sub_(most).exp_().scatter_(0, own, 0.0)
        wrong = others.sum(0, keepdim=True)
        share = (wrong + torch.exp(-most)).reciprocal_()
        residuals = others.mul_(share).scatter_(0, own, -(wrong * share))
        return most + torch.log1p(torch.expm1(-most) + wrong), residuals


class Sigmoids(_Losses):
    """Binary cross-entropy of k labels of their own."""

    def __init__(self, targets: Int64[Tensor, "n k"]) -> None:
        super().__init__(targets.shape[1])
        self._signs = (2 * targets - 1).float().T.contiguous()  # [k, n]

    def losses(self, logits: Float[Tensor, "k b"], place: slice) -> tuple[Tensor, Float[Tensor, "k b"]]:
        """Residuals: the distance of each image and label from the right answer."""
        signs = self._signs[:, place]
        margins = logits.mul_(signs)
        return F.softplus(-margins), torch.sigmoid(-margins).mul_(-signs)


def terms(targets: Int64[Tensor, " n"] | Int64[Tensor, "n k"]) -> Terms:
    """Return the loss for class numbers 0 ... k - 1, or for multi-label targets."""
    if targets.ndim == 2:
        return Sigmoids(targets)
    return Softmax(targets, int(targets.max()) + 1)
