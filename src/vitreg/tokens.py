"""The role of every index of a ViT's token sequence, and token tensors with named roles.

Registers are located by what the library says, never by counting from the front. Grids are rows x cols. Patches need
not be contiguous, and some may have been dropped ("gone"): read them with `TokenLayout.take`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.errors import UserError

Role = Literal["cls", "register", "other", "patch"]
Values = TypeVar("Values", Tensor, np.ndarray)
GONE = -1  # the index of a patch without a token


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """Roles of the N tokens of one sequence.

    Args:
        cls: indices of class tokens, empty for models without one.
        registers: indices of register tokens; they may stand before, after or between the patches.
        other: indices of tokens with another purpose, such as the distillation token of DeiT.
        patches: a slice with start and stop, or the index of every patch of the grid row by row, -1 for one that is
            gone. Stored as a slice if patches are contiguous and in order.
        grid: (rows, cols) of the patches, row-major.
    Raises:
        ValueError: if a role overlaps another, an index is left over, the grid does not hold the patches, or all are gone.
    """

    cls: tuple[int, ...]
    registers: tuple[int, ...]
    other: tuple[int, ...]
    patches: slice | tuple[int, ...]
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        (rows, cols), places = self.grid, self._places
        if rows * cols != len(places):
            raise ValueError(f"a {rows}x{cols} grid holds {rows * cols} patches, not {len(places)}")
        there = [index for index in places if index != GONE]
        indices = sorted([*self.cls, *self.registers, *self.other, *there])
        if indices != list(range(len(indices))):
            raise ValueError(f"token roles must cover 0..N-1 exactly once, got {indices[:8]}... of {len(indices)}")
        if places and not there:
            raise ValueError("no patch is left: a layout needs at least one")
        if there and places == tuple(range(there[0], there[0] + len(places))):
            object.__setattr__(self, "patches", slice(there[0], there[0] + len(places)))

    @classmethod
    def prefixed(cls, grid: tuple[int, int], *, cls_tokens: int = 0, registers: int = 0, other: int = 0) -> TokenLayout:
        """Build the common order [CLS, other, registers, patches] (other = distillation token of DeiT)."""
        a, b, c = cls_tokens, cls_tokens + other, cls_tokens + other + registers
        return cls(
            cls=tuple(range(a)),
            other=tuple(range(a, b)),
            registers=tuple(range(b, c)),
            patches=slice(c, c + grid[0] * grid[1]),
            grid=grid,
        )

    def with_registers(self, count: int) -> TokenLayout:
        """Return the layout with registers added directly before the first patch; a negative count removes them from
        there.

        Raises:
            ValueError: if there are fewer registers to remove.
        """
        start = self.first_patch
        if count < 0:
            gone = range(start + count, start)
            if any(index not in self.registers for index in gone):
                raise ValueError(f"there are not {-count} registers directly before the patches")
            return self.without(gone)

        def moved(indices: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(index + count if index >= start else index for index in indices)

        return TokenLayout(
            cls=moved(self.cls),
            registers=tuple(sorted((*moved(self.registers), *range(start, start + count)))),
            other=moved(self.other),
            patches=moved(self._places),
            grid=self.grid,
        )

    def without(self, tokens: Iterable[int]) -> TokenLayout:
        """Return the layout after some tokens were removed: the others move up, and removed patches are gone.

        Raises:
            ValueError: for an index that the sequence does not have.
        """
        gone = set(tokens)
        if unknown := sorted(gone - set(range(self.length))):
            raise ValueError(f"there is no token {unknown[0]} in a sequence of {self.length}")
        kept = [index for index in range(self.length) if index not in gone]
        new = {index: place for place, index in enumerate(kept)}

        def moved(indices: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(new[index] for index in indices if index in new)

        return TokenLayout(
            cls=moved(self.cls),
            registers=moved(self.registers),
            other=moved(self.other),
            patches=tuple(new.get(index, GONE) for index in self._places),
            grid=self.grid,
        )

    @property
    def length(self) -> int:
        """N, the number of tokens of the sequence."""
        there = self.num_patches if isinstance(self.patches, slice) else sum(index != GONE for index in self.patches)
        return len(self.cls) + len(self.registers) + len(self.other) + there

    @property
    def num_patches(self) -> int:
        """P = rows * cols, those that are gone included."""
        return self.grid[0] * self.grid[1]

    @property
    def whole(self) -> bool:
        """Whether every patch of the grid has a token."""
        return isinstance(self.patches, slice) or GONE not in self.patches

    @property
    def first_patch(self) -> int:
        """Index in the sequence of the first patch token, which is also the number of tokens before it."""
        if isinstance(self.patches, slice):
            return self.patches.start
        return min(index for index in self.patches if index != GONE)

    @property
    def patch_index(self) -> Int64[Tensor, "P"]:
        """Index in the sequence of every patch of the grid, row by row; -1 for one that is gone."""
        return torch.tensor(self._places, dtype=torch.long, device="cpu")

    @property
    def present(self) -> Bool[Tensor, "P"]:
        """Which patches of the grid have a token."""
        return self.patch_index != GONE

    def patch(self, row: int, col: int) -> int:
        """Return the index in the sequence of the patch at a place of the grid, -1 if it is gone.

        Raises:
            IndexError: for a place outside the grid.
        """
        rows, cols = self.grid
        if not (0 <= row < rows and 0 <= col < cols):
            raise IndexError(f"no patch ({row}, {col}) on a grid of {rows}x{cols}")
        return self._places[row * cols + col]

    def take(self, values: Values, axis: int = -2, fill: float = nan) -> Values:
        """Select the entries of the patches, row by row on the grid: N along an axis becomes P.

        A view where patches lie side by side, a copy elsewhere.

        Args:
            values: a tensor or an array with one entry for each of the N tokens along `axis`.
            fill: value for patches that are gone; must be given for integers.
        """
        ahead = (slice(None),) * (axis % values.ndim)
        if isinstance(self.patches, slice):
            return values[(*ahead, self.patches)]  # type: ignore[return-value]
        index, gone = self.patch_index.clamp(min=0), ~self.present
        if isinstance(values, Tensor):
            index, gone = index.to(values.device), gone.to(values.device)
        else:
            index, gone = index.numpy(), gone.numpy()
        found: Any = values[(*ahead, index)]  # type: ignore[index]
        if not self.whole:
            found[(*ahead, gone)] = fill
        return found

    def places(self, common: TokenLayout) -> Int64[Tensor, "N"]:
        """Return where every token of another layout of the same image is in this sequence, -1 if absent.

        Patches are matched by their place on the grid, other tokens by their order within their role.
        """
        found = torch.full((common.length,), GONE)
        for own, theirs in ((self.cls, common.cls), (self.registers, common.registers), (self.other, common.other)):
            for index, place in zip(own, theirs, strict=False):
                found[place] = index
        there = common.present
        found[common.patch_index[there]] = self.patch_index[there]
        return found

    def role(self, index: int) -> Role:
        """Return the role of one token."""
        if not 0 <= index < self.length:
            raise IndexError(f"token {index} of a sequence of {self.length}")
        for role, members in (("cls", self.cls), ("register", self.registers), ("other", self.other)):
            if index in members:
                return role  # type: ignore[return-value]
        return "patch"

    def roles(self) -> Iterator[Role]:
        """Yield the role of every token in order."""
        return (self.role(i) for i in range(self.length))

    @property
    def _places(self) -> tuple[int, ...]:
        """The index of every patch, row by row."""
        patches = self.patches
        return tuple(range(patches.start, patches.stop)) if isinstance(patches, slice) else tuple(patches)


def common_layout(layouts: Sequence[TokenLayout]) -> TokenLayout:
    """Return a layout that holds every token of several layouts of one image, with no patch gone.

    This is the first layout if that already holds all.

    Raises:
        UserError: for layouts with different grids.
    """
    first, grids = layouts[0], sorted({layout.grid for layout in layouts})
    if len(grids) > 1:
        words = " and ".join(f"{rows}x{cols}" for rows, cols in grids)
        raise UserError(f"this model has patches on grids of {words}, and blocks are compared on one grid only.")
    cls, registers, other = (
        max(len(getattr(each, role)) for each in layouts) for role in ("cls", "registers", "other")
    )
    if first.whole and (len(first.cls), len(first.registers), len(first.other)) == (cls, registers, other):
        return first
    return TokenLayout.prefixed(first.grid, cls_tokens=cls, registers=registers, other=other)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token vectors with their layout: `cls` [B, D], `registers` [B, R, D], `patches` [B, P, D], `patch_map` [B, D, rows, cols]."""

    values: Float[Tensor, "B N D"]
    layout: TokenLayout

    def __repr__(self) -> str:
        (images, count, width), (rows, cols) = self.values.shape, self.layout.grid
        gone = int((~self.layout.present).sum())
        parts = [f"{len(self.layout.cls)} cls", f"{len(self.layout.registers)} registers", f"{rows}x{cols} patches"]
        parts += [f"{gone} of them gone"] if gone else []
        return f"Tokens({images} images, {count} tokens ({', '.join(parts)}) of width {width})"

    @property
    def cls(self) -> Float[Tensor, "B D"]:
        """The class token. Raises ValueError for a model without one."""
        if not self.layout.cls:
            raise ValueError("this model has no class token")
        return self.values[:, self.layout.cls[0]].clone()  # who collects a view of it holds all tokens in memory

    @property
    def registers(self) -> Float[Tensor, "B R D"]:
        """The register tokens; R may be 0."""
        return self.values[:, list(self.layout.registers)]

    @property
    def patches(self) -> Float[Tensor, "B P D"]:
        """The patch tokens, row-major; NaN for patches that are gone."""
        return self.layout.take(self.values)

    @property
    def mean_patch(self) -> Float[Tensor, "B D"]:
        """The mean of the present patch tokens, in float32."""
        patches = self.patches.float()
        return patches.mean(1) if self.layout.whole else patches[:, self.layout.present].mean(1)

    @property
    def patch_map(self) -> Float[Tensor, "B D rows cols"]:
        """The patch tokens on their grid; NaN for patches that are gone."""
        return self.patches.transpose(1, 2).unflatten(2, self.layout.grid)
