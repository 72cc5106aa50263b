"""Patches filled from the patches around them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.tokens import TokenLayout


def patches_of(layout: TokenLayout, device: torch.device) -> tuple[Int64[Tensor, "T"], Int64[Tensor, "T"]]:
    """Return the T patches that have a token: their indices in the sequence, and their places on the grid, row by row."""
    if isinstance(layout.patches, slice):  # of fixed lengths: a compiled graph stays whole
        start, stop = layout.patches.start, layout.patches.stop
        return torch.arange(start, stop, device=device), torch.arange(stop - start, device=device)
    there = layout.present
    return layout.patch_index[there].to(device), there.nonzero().flatten().to(device)


def filled(
    values: Float[Tensor, "B T D"], marked: Bool[Tensor, "B T"], places: Int64[Tensor, "T"], grid: tuple[int, int]
) -> Float[Tensor, "B T D"]:
    """Replace marked patches by the mean of the nearest unmarked ones: those among the 8 neighbours, and where none of
    these is left, the next ring that has some.

    Computed in float32 (float64 for such values). An image whose patches are all marked stays as it is.

    Args:
        places: of the T patches on the grid, row by row; others are gone.
        grid: (rows, cols).
    """
    cols = grid[1]
    row, col = places // cols, places % cols
    rings = torch.maximum((row[:, None] - row).abs(), (col[:, None] - col).abs())  # [T, T], 1 for the 8 neighbours
    seen = torch.where(marked[:, None, :], rings.max() + 1, rings)  # [B, T, T], marked ones beyond all others
    nearest = seen.amin(2, keepdim=True)
    with torch.autocast(values.device.type, enabled=False):  # it would compute the mean in half precision
        wide = values if values.dtype == torch.float64 else values.float()
        shares = (seen == nearest).to(wide.dtype)
        means = (shares / shares.sum(2, keepdim=True)) @ wide
    replaced = marked & ~marked.all(1, keepdim=True)
    return torch.where(replaced[..., None], means.to(values.dtype), values)
