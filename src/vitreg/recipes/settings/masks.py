"""How much of an image iBOT and DINOv2 hide. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from vitreg.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskConfig:
    """How much of the student's global crops is hidden (iBOT, DINOv2)."""

    share: float = 0.5
    """Of the global crops that have hidden patches."""
    ratio: tuple[float, float] = (0.1, 0.5)
    """Of the patches of such a crop, smallest and largest; stratified over the crops of a group."""

    def __post_init__(self) -> None:
        low, high = self.ratio
        if not 0 < self.share <= 1 or not 0 <= low <= high <= 1:
            raise UserError(
                f"masks need a share above 0 and up to 1, and a ratio from small to large within 0 and 1, "
                f"not share {self.share:g} and ratio {low:g} to {high:g}."
            )
