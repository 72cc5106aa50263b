"""Fit a checkpoint's position table to a model: another grid, and class or register tokens with or without a position.

Libraries disagree on whether the class token has a row in the table. Adding that row to the token itself is exact,
since the token is the same for every image. In the other direction, the token stays and gets a row of zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vitreg.models.posembed import resample_positions

PREFIX = ("cls_token", "dist_token", "reg_token")  # in the order in which every known library concatenates them


@dataclass(frozen=True, slots=True)
class Fit:
    """Rows of the table before the patches, and the grid of the patches, in the file and in the model."""

    file_rows: int
    file_grid: tuple[int, int]
    model_rows: int
    model_grid: tuple[int, int]

    @property
    def resampled(self) -> bool:
        """Whether the grids differ."""
        return self.file_grid != self.model_grid

    def __str__(self) -> str:
        """Say both sizes: `1 + 37*37 positions, the model wants 1 + 16*16`."""
        file, model = _size(self.file_rows, self.file_grid), _size(self.model_rows, self.model_grid)
        return f"{file} positions, the model wants {model}"


def _size(rows: int, grid: tuple[int, int]) -> str:
    return (f"{rows} + " if rows else "") + f"{grid[0]}*{grid[1]}"


def square(count: int) -> tuple[int, int] | None:
    """Return the square grid of `count` patches, None where there is none."""
    side = math.isqrt(max(count, 0))
    return (side, side) if side and side * side == count else None


def fit_positions(
    tensors: Mapping[str, Tensor],
    length: int,
    grid: tuple[int, int],
    file_grid: tuple[int, int] | None = None,
    trained_grid: tuple[int, int] | None = None,
) -> tuple[dict[str, Tensor], Fit] | None:
    """Give canonical tensors a position table of `length` rows, the patches of which cover `grid`.

    Args:
        tensors: canonical tensors of a checkpoint, `pos_embed` [1, L, D] among them.
        length: rows of the model's table.
        grid: (rows, cols) of the model's patches, rows * cols <= length.
        file_grid: (rows, cols) of the checkpoint's patches if known; else derived from the length of its table.
        trained_grid: the grid as stated by the caller; used if the length allows it.
    Returns:
        (tensors with a new table, and with positions folded into class or register tokens where the model has no row
        for them; what was done). None where the table's grid cannot be told.
    """
    table = tensors["pos_embed"]
    counts = [tensors[name].shape[-2] if name in tensors else 0 for name in PREFIX]
    wanted = length - grid[0] * grid[1]
    if file_grid is None:
        found = _rows(table.shape[-2], counts, wanted, grid, trained_grid)
    else:
        found = table.shape[-2] - file_grid[0] * file_grid[1], file_grid
    if found is None:
        return None
    rows, source = found
    head, patches = table[:, :rows], table[:, rows:]
    fitted = dict(tensors)
    at = 0
    for name, count in zip(PREFIX, counts, strict=True):
        # Rows that the model has no place for go into their tokens.
        first, last = max(at, wanted), min(at + count, rows)
        if first < last:
            token = tensors[name].clone()
            token[:, first - at : last - at] += head[:, first:last].to(token.dtype)
            fitted[name] = token
        at += count
    head = head[:, :wanted]
    blank = head.new_zeros(1, wanted - head.shape[1], table.shape[-1])
    fitted["pos_embed"] = torch.cat([head, blank, resample_positions(patches, source, grid)], dim=1)
    return fitted, Fit(rows, source, wanted, grid)


def _rows(
    length: int, counts: list[int], wanted: int, grid: tuple[int, int], trained: tuple[int, int] | None
) -> tuple[int, tuple[int, int]] | None:
    """Return (rows before the patches, grid of the patches) of a table of `length` rows.

    The model's grid is tried first, whichever tokens have rows: 1 + 5*3 rows are also 4*4. Then a square, then the grid
    stated by the caller. With the model's own number of rows before the patches, the stated grid comes before the
    square: 1 + 13*15 rows are 14*14 only by chance. But if both have equally many patches the square wins: images of
    7*28 patches tell nothing about a table of 14*14.
    """
    cls, dist, registers = counts
    possible = dict.fromkeys((wanted, cls + dist, 0, cls, cls + dist + registers))
    possible = [rows for rows in possible if rows <= sum(counts)]

    def exact(known: tuple[int, int]) -> tuple[int, tuple[int, int]] | None:
        rows = length - known[0] * known[1]
        return (rows, known) if rows in possible else None

    own = exact(grid)
    said = exact(trained) if trained else None
    by_chance = own is None or own[0] != wanted
    if by_chance and said and said[0] == wanted and square(length - wanted) in (None, trained):
        return said
    squares = ((rows, side) for rows in possible if (side := square(length - rows)))
    return own or next(squares, None) or said
