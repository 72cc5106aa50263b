"""Ridge regression in closed form from moments: constant memory over any number of samples.

Only the count, means and scatter of the samples are kept, in float64. They merge exactly, and the held-out moments give
the squared error of any linear map, so the strength is chosen without a second pass over the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

STRENGTHS = tuple(10.0**k for k in range(-8, 3))


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, means and scatter (sums of products of deviations) of pairs (x [D], y [K]), float64 on the CPU."""

    count: int
    mean_x: Float64[Tensor, "D"]
    mean_y: Float64[Tensor, "K"]
    xx: Float64[Tensor, "D D"]
    xy: Float64[Tensor, "D K"]
    yy: Float64[Tensor, "K"]  # the diagonal only

    @classmethod
    def zero(cls, inputs: int, targets: int) -> Moments:
        """Nothing seen yet."""
        sizes = ((inputs,), (targets,), (inputs, inputs), (inputs, targets), (targets,))
        return cls(0, *(torch.zeros(size, dtype=torch.float64) for size in sizes))

    @classmethod
    def of(cls, x: Float[Tensor, "n D"], y: Float[Tensor, "n K"]) -> Moments:
        """Reduce some samples, on the device they are on."""
        if len(x) != len(y):
            raise ValueError(f"{len(x)} inputs for {len(y)} targets")
        if not len(x):
            return cls.zero(x.shape[1], y.shape[1])
        if x.device.type == "mps":  # has no float64
            x, y = x.cpu(), y.cpu()
        x, y = x.double(), y.double()
        mean_x, mean_y = x.mean(0), y.mean(0)
        x, y = x - mean_x, y - mean_y
        parts = (mean_x, mean_y, x.T @ x, x.T @ y, y.square().sum(0))
        return cls(len(x), *(part.cpu() for part in parts))

    def __add__(self, other: Moments) -> Moments:
        """Merge, exactly but for rounding (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        share = other.count / max(count, 1)
        weight = self.count * share
        dx, dy = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        return Moments(
            count,
            self.mean_x + share * dx,
            self.mean_y + share * dy,
            self.xx + other.xx + weight * torch.outer(dx, dx),
            self.xy + other.xy + weight * torch.outer(dx, dy),
            self.yy + other.yy + weight * dy.square(),
        )

    def targets(self, columns: slice) -> Moments:
        """Return the moments with some of the targets only."""
        return Moments(
            self.count, self.mean_x, self.mean_y[columns], self.xx, self.xy[:, columns], self.yy[columns]
        )  # fmt: skip


class SplitMoments:
    """Moments of the samples to fit on and of those held out, gathered batch by batch.

    Attributes:
        fit, held_out: None until there are samples.
    """

    def __init__(self) -> None:
        self.fit: Moments | None = None
        self.held_out: Moments | None = None

    def add(self, x: Float[Tensor, "B P D"], y: Float[Tensor, "B P K"], held_out: Bool[Tensor, "B"]) -> None:
        """Count the samples of some images, each image on one side."""
        x, y = x.flatten(2), y.flatten(2)
        for name, chosen in (("fit", ~held_out), ("held_out", held_out)):
            chosen = chosen.to(x.device)
            own = Moments.of(x[chosen].flatten(0, 1), y[chosen].flatten(0, 1))
            before = getattr(self, name)
            setattr(self, name, own if before is None else before + own)

    def merge(self, gather: Callable[[tuple[Moments, Moments] | None], list[Any]]) -> None:
        """Sum over processes, of which some may have had no samples; `gather` is `Processes.gather`."""
        parts = gather(None if self.fit is None or self.held_out is None else (self.fit, self.held_out))
        parts = [part for part in parts if part is not None]
        if parts:
            self.fit, self.held_out = (reduce(add, own) for own in zip(*parts, strict=True))

    @property
    def complete(self) -> bool:
        """Whether there are samples on both sides."""
        return bool(self.fit and self.fit.count and self.held_out and self.held_out.count)

    def both(self) -> tuple[Moments, Moments]:
        """Return the moments to fit on and the held-out ones. Raises ValueError where a side has no samples."""
        if not self.complete or self.fit is None or self.held_out is None:
            raise ValueError("samples to fit on and held-out ones are both needed")
        return self.fit, self.held_out


@dataclass(frozen=True, slots=True)
class LinearMap:
    """x @ weight + bias, in the dtype of x but at least float32."""

    weight: Float64[Tensor, "D K"]
    bias: Float64[Tensor, "K"]

    def __call__(self, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n K"]:
        """Apply to tokens of any leading shape."""
        x = x.double() if x.dtype == torch.float64 else x.float()
        return x @ self.weight.to(x) + self.bias.to(x)

    def squared_error(self, moments: Moments) -> float:
        """Sum over samples and targets of the squared residuals, from the moments of the samples."""
        fitted = self.weight * moments.xy
        spread = self.weight * (moments.xx @ self.weight)
        offset = moments.mean_y - moments.mean_x @ self.weight - self.bias
        return float(moments.yy.sum() - 2 * fitted.sum() + spread.sum() + moments.count * offset.square().sum())


class Ridge:
    """Least squares with an L2 penalty, bias free of it; the strength is chosen on held-out samples.

    Args:
        strengths: penalties to try, as multiples of the mean variance of an input channel times the count of samples:
            alpha of scikit-learn's Ridge is strength * trace(scatter of x) / D.

    Attributes:
        map_: the fitted map.
        strength_: the chosen strength.
    """

    def __init__(self, strengths: Sequence[float] = STRENGTHS) -> None:
        if len(strengths) < 1 or min(strengths) <= 0:
            raise ValueError(f"strengths must be positive, not {list(strengths)}")
        self.strengths = tuple(strengths)
        self.map_: LinearMap
        self.strength_: float

    def fit(self, moments: Moments, held_out: Moments | None = None) -> Ridge:
        """Fit; with held-out moments choose the strength by them, then fit again on both.

        Raises:
            ValueError: for several strengths without held-out samples to choose by, or no samples at all.
        """
        if not moments.count:
            raise ValueError("no samples to fit")
        if held_out is None or not held_out.count:
            if len(self.strengths) != 1:
                raise ValueError("a choice of strengths needs held-out samples")
            (self.strength_,) = self.strengths
        else:
            spectrum = _Spectrum(moments)
            errors = [spectrum.solve(strength).squared_error(held_out) for strength in self.strengths]
            self.strength_ = self.strengths[min(range(len(errors)), key=errors.__getitem__)]
            moments = moments + held_out
        self.map_ = _Spectrum(moments).solve(self.strength_)
        return self


class _Spectrum:
    """One eigendecomposition serves every strength."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self.values, self.vectors = torch.linalg.eigh(moments.xx)
        self.rotated = self.vectors.T @ moments.xy  # [D, K]

    def solve(self, strength: float) -> LinearMap:
        values = self.values.clamp(min=0)
        penalty = strength * max(float(values.mean()), torch.finfo(torch.float64).tiny)
        weight = self.vectors @ (self.rotated / (values + penalty)[:, None])
        return LinearMap(weight, self.moments.mean_y - self.moments.mean_x @ weight)
