"""How much a patch repeats its surroundings: the redundancy measure of the paper's Sec. 2.1 and Fig. 5a.

Pure functions of patch embeddings. Which patches are outliers is decided in `outliers`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def neighbour_cosine(patches: Float[Tensor, "B P D"], grid: tuple[int, int]) -> Float[Tensor, "B P"]:
    """Mean cosine similarity of each patch to its 4-neighbours (up, down, left, right) inside the image.

    High values mark redundant patches, where the paper finds the outliers (Sec. 2.1, Fig. 5a). The paper does not say
    whether the four values are averaged or pooled; here they are averaged, so that each patch has one value. A patch
    without any neighbour (a 1x1 grid) is NaN.

    >>> for b in range(B):
    ...     for r in range(rows):
    ...         for c in range(cols):
    ...             near = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
    ...             near = [(i, j) for i, j in near if 0 <= i < rows and 0 <= j < cols]
    ...             me = patches[b, r * cols + c]
    ...             cosines = [cosine(me, patches[b, i * cols + j]) for i, j in near]
    ...             out[b, r * cols + c] = sum(cosines) / len(cosines)

    Args:
        patches: embeddings right after the patch projection, before position embeddings are added.
        grid: (rows, cols) with rows * cols == P.
    Raises:
        ValueError: if the grid does not hold P patches.
    """
    rows, cols = grid
    if rows * cols != patches.shape[1]:
        raise ValueError(f"a {rows}x{cols} grid holds {rows * cols} patches, not {patches.shape[1]}")
    x = patches.float()
    x = x / x.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)  # squares of any size fit then
    x = F.normalize(x, dim=-1).unflatten(1, grid)  # [B, rows, cols, D]
    down = (x[:, 1:] * x[:, :-1]).sum(-1)  # [B, rows-1, cols]
    right = (x[:, :, 1:] * x[:, :, :-1]).sum(-1)  # [B, rows, cols-1]
    total = F.pad(down, (0, 0, 0, 1)) + F.pad(down, (0, 0, 1, 0)) + F.pad(right, (0, 1)) + F.pad(right, (1, 0))
    return (total / neighbour_count(grid).to(total)).flatten(1)  # [B, P]


def neighbour_count(grid: tuple[int, int]) -> Float[Tensor, "rows cols"]:
    """How many of the 4-neighbours lie inside the image: 4 in the middle, 3 on an edge, 2 in a corner."""
    rows, cols = grid
    count = torch.zeros(rows, cols)
    count[1:] += 1
    count[:-1] += 1
    count[:, 1:] += 1
    count[:, :-1] += 1
    return count
