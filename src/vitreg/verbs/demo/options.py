"""The options of `demo`: its flags, its manual and the keywords of `vitreg.demo`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from vitreg.errors import unknown
from vitreg.passes.keywords import Fitted
from vitreg.specs import PLANTED


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Fitted):
    """Scan a ViT in which artifacts were born, a planted one, and their twins without. Offline, under two minutes."""

    kind: str = "high-norm"
    """Which artifact is planted: high-norm, low-norm, position-locked, last-block, hidden or global."""

    def __post_init__(self) -> None:
        """Refuse an artifact that does not exist. Raises UserError."""
        super().__post_init__()
        if self.kind not in PLANTED:
            raise unknown("planted kind", self.kind, PLANTED)
