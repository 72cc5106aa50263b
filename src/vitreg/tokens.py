"""Which index of a ViT's sequence plays which role, and token tensors that know it.

Registers are found by what a library says about its model, never by counting from the front; grids are rows x cols,
height first. Everything that slices tokens in this project goes through here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

Role = Literal["cls", "register", "other", "patch"]


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """Roles of the N tokens of one sequence.

    Args:
        cls: indices of class tokens, empty for models without one.
        registers: indices of register tokens; they may stand before or after the patches.
        other: indices of tokens with another purpose, such as the distillation token of DeiT.
        patches: a contiguous slice with start and stop.
        grid: (rows, cols) of the patches, row-major.
    Raises:
        ValueError: if a role overlaps another, an index is left over, or the grid does not hold the patches.
    """

    cls: tuple[int, ...]
    registers: tuple[int, ...]
    other: tuple[int, ...]
    patches: slice
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        rows, cols = self.grid
        count = self.patches.stop - self.patches.start
        if rows * cols != count:
            raise ValueError(f"a {rows}x{cols} grid holds {rows * cols} patches, not {count}")
        indices = sorted([*self.cls, *self.registers, *self.other, *range(self.patches.start, self.patches.stop)])
        if indices != list(range(len(indices))):
            raise ValueError(f"token roles must cover 0..N-1 exactly once, got {indices[:8]}... of {len(indices)}")

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
        """Return the layout with registers added directly before the patches, or as many taken away from there.

        Raises:
            ValueError: if fewer registers than that stand there.
        """
        start = self.patches.start
        gone = range(start + count, start)  # empty where registers are added
        if any(index not in self.registers for index in gone):
            raise ValueError(f"there are not {-count} registers directly before the patches")

        def moved(indices: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(index + count if index >= start else index for index in indices)

        kept = tuple(index for index in self.registers if index not in gone)
        return TokenLayout(
            cls=moved(self.cls),
            registers=tuple(sorted((*moved(kept), *range(start, start + count)))),
            other=moved(self.other),
            patches=slice(start + count, self.patches.stop + count),
            grid=self.grid,
        )

    @property
    def length(self) -> int:
        """N, the number of tokens of the sequence."""
        return len(self.cls) + len(self.registers) + len(self.other) + self.num_patches

    @property
    def num_patches(self) -> int:
        """P = rows * cols."""
        return self.grid[0] * self.grid[1]

    def role(self, index: int) -> Role:
        """Return the role of one token."""
        if self.patches.start <= index < self.patches.stop:
            return "patch"
        for role, members in (("cls", self.cls), ("register", self.registers), ("other", self.other)):
            if index in members:
                return role  # type: ignore[return-value]
        raise IndexError(f"token {index} of a sequence of {self.length}")

    def roles(self) -> Iterator[Role]:
        """Yield the role of every token in order."""
        return (self.role(i) for i in range(self.length))


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token vectors with their layout: `cls` [B, D], `registers` [B, R, D], `patches` [B, P, D], `patch_map` [B, D, rows, cols]."""

    values: Float[Tensor, "B N D"]
    layout: TokenLayout

    def __repr__(self) -> str:
        (images, count, width), (rows, cols) = self.values.shape, self.layout.grid
        parts = [f"{len(self.layout.cls)} cls", f"{len(self.layout.registers)} registers", f"{rows}x{cols} patches"]
        return f"Tokens({images} images, {count} tokens ({', '.join(parts)}) of width {width})"

    @property
    def cls(self) -> Float[Tensor, "B D"]:
        """The class token. Raises ValueError for a model without one."""
        if not self.layout.cls:
            raise ValueError("this model has no class token")
        return self.values[:, self.layout.cls[0]]

    @property
    def registers(self) -> Float[Tensor, "B R D"]:
        """The register tokens; R may be 0."""
        return self.values[:, list(self.layout.registers)]

    @property
    def patches(self) -> Float[Tensor, "B P D"]:
        """The patch tokens, row-major."""
        return self.values[:, self.layout.patches]

    @property
    def patch_map(self) -> Float[Tensor, "B D rows cols"]:
        """The patch tokens on their grid."""
        return self.patches.transpose(1, 2).unflatten(2, self.layout.grid)
