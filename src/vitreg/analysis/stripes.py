"""The gradient that a position table receives through resampling: flat with antialiasing, striped without.

Eight of ten crops of DINOv2 are small, so most of the gradient of the table passes through a reduction to a small grid
(the paper, App. A, Figs. 10 and 11). Resampling is linear, so its adjoint applied to ones gives the pattern, without
data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Stripes:
    """Statistics of a gradient map: the spread measures the stripes, the mean is always target / source positions."""

    minimum: float
    maximum: float
    mean: float
    std: float


def table_gradient(
    source: tuple[int, int], target: tuple[int, int], *, antialias: bool, offset: float = 0.0
) -> Float64[Tensor, "rows cols"]:
    """Return what each position of a table receives when every position of its resampled copy has the gradient 1.

    If both grids are equal the table is not resampled, whatever the offset (as in DINOv2): all ones.

    Args:
        source: (rows, cols) of the learned table.
        target: (rows, cols) it is resampled to, bicubic.
        antialias: widen the kernel to the step, as this project and the paper's runs do.
        offset: DINO's: positions added to the target before the scale factor is formed; 0 resamples by size.
    Raises:
        ValueError: if the offset leads to another grid than the target, or a side is below 1.
    """
    if min(*source, *target) < 1:
        raise ValueError(f"grids have at least one row and column, not {source} and {target}")
    if tuple(source) == tuple(target):
        return torch.ones(*source, dtype=torch.float64)
    table = torch.zeros(1, 1, *source, dtype=torch.float64, requires_grad=True)
    if offset:
        factors = [(t + offset) / s for t, s in zip(target, source, strict=True)]
        resampled = F.interpolate(table, scale_factor=factors, mode="bicubic", antialias=antialias)
    else:
        resampled = F.interpolate(table, size=target, mode="bicubic", antialias=antialias)
    if tuple(resampled.shape[2:]) != tuple(target):
        raise ValueError(f"an offset of {offset} leads to {tuple(resampled.shape[2:])}, not {target}")
    (gradient,) = torch.autograd.grad(resampled.sum(), table)
    return gradient[0, 0]


def column_profile(source: int, target: int, *, antialias: bool, offset: float = 0.0) -> Float64[Tensor, " source"]:
    """Return c, what each column receives from a row of the target: resampling is separable, the map is outer(c, c).

    Args:
        source, target: columns; else as for `table_gradient`.
    """
    gradient = table_gradient((source, source), (target, target), antialias=antialias, offset=offset)
    return gradient.sum(0) / target  # the profile over rows sums to the target's rows


def stripes(gradient: Float64[Tensor, "rows cols"]) -> Stripes:
    """Summarise a gradient map."""
    values = gradient.double()
    return Stripes(float(values.min()), float(values.max()), float(values.mean()), float(values.std()))
