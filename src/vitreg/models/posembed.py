"""Resampling of learned position tables from one patch grid to another.

Always by `size=`, antialiased and in float32. A scale factor fails at some sizes (37 positions to 546 pixels with patch
14) and shifts the samples; without antialiasing, gradients of small crops leave stripes in the table (the paper, App.
A). Class tokens and registers have no grid position: remove them before calling.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resample_positions(
    table: Float[Tensor, "... P D"], source: tuple[int, int], target: tuple[int, int]
) -> Float[Tensor, "... Q D"]:
    """Resample patch position embeddings, bicubic with antialiasing (the paper, App. A).

    Args:
        table: [1, P, D] or [P, D], row-major over the source grid, patches only.
        source: (rows, cols) of the table, rows * cols == P.
        target: (rows, cols) wanted.
    Returns:
        A table of the same rank and dtype with Q = target rows * cols positions; the very same object where the grids
        are equal.
    Raises:
        ValueError: if the source grid does not hold P positions, or a side of the target is not positive.
    """
    rows, cols = source
    if rows * cols != table.shape[-2]:
        raise ValueError(f"a {rows}x{cols} grid holds {rows * cols} positions, not {table.shape[-2]}")
    if min(target) < 1:
        raise ValueError(f"the target grid must have at least one row and column, got {target[0]}x{target[1]}")
    if tuple(source) == tuple(target):
        return table
    planes = table.float().reshape(1, rows, cols, table.shape[-1]).permute(0, 3, 1, 2)  # [1, D, rows, cols]
    planes = F.interpolate(planes, size=tuple(target), mode="bicubic", antialias=True, align_corners=False)
    resampled = planes.flatten(2).transpose(1, 2).to(table.dtype)  # [1, Q, D]
    return resampled.reshape(*table.shape[:-2], *resampled.shape[1:])
