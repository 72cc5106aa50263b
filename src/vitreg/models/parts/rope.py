"""Rotary positions on a grid, for the queries and keys of patches only: axial, as in RoPE-ViT (Heo et al. 2024).

A head of d channels has d / 2 pairs of neighbouring channels. Pair j of the first half is turned by row * f_j, pair j of
the second half by column * f_j, in radians, with f_j = base ** (-4 j / d), j = 0 ... d / 4 - 1. CLS and registers have no
place and stay as they are.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vitreg.errors import UserError

Turns = Float[Tensor, "2 P pairs"]
"""Cosine and sine of the angle of every pair of channels, for every patch, row by row."""


def turns_of(grid: tuple[int, int], size: int, base: float, device: torch.device | None = None) -> Turns:
    """Return the angles of the patches of a grid.

    Args:
        grid: (rows, cols).
        size: d, the channels of a head; a multiple of 4.
        base: of the frequencies.
    """
    rows, cols = (torch.arange(side, device=device, dtype=torch.float32) for side in grid)
    frequencies = base ** (-4 * torch.arange(size // 4, device=device, dtype=torch.float32) / size)  # [d / 4]
    along = (rows[:, None] * frequencies)[:, None].expand(-1, grid[1], -1)
    across = (cols[:, None] * frequencies)[None].expand(grid[0], -1, -1)
    angles = torch.cat([along, across], dim=2).flatten(0, 1)  # [P, d / 2]
    return torch.stack([angles.cos(), angles.sin()])


def turned(x: Float[Tensor, "B heads N d"], turns: Turns, first: int) -> Float[Tensor, "B heads N d"]:
    """Turn the patches among queries or keys; computed in float32 at least, returned in the dtype of `x`.

    Args:
        first: number of the tokens before the patches.
    Raises:
        UserError: if there are not as many patches as angles: an edit dropped some, and the others' places are not known.
    """
    if x.shape[2] - first != turns.shape[1]:
        raise UserError(
            f"this model turns {turns.shape[1]} patches by their place, and {x.shape[2] - first} came; rotary positions "
            "need every patch."
        )
    exact = x[:, :, first:].to(torch.promote_types(x.dtype, torch.float32))
    a, b = exact.unflatten(-1, (-1, 2)).unbind(-1)  # each [B, heads, P, d / 2]
    cos, sin = turns
    patches = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    return torch.cat([x[:, :, :first], patches.to(x.dtype)], dim=2)
