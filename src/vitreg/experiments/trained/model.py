"""Which models the experiments train, by name. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

PREFIX = "trained:"
RecipeName = Literal["dinov2", "deit3", "clip"]
RECIPES: dict[RecipeName, str] = {"dinov2": "DINOv2", "deit3": "DeiT-III", "clip": "OpenCLIP"}
"""The recipes of the paper (Sec. 3.1), and what it calls them."""
DECORRELATED = 1.0
"""The weight of the decorrelation of registers, where there is one."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model that is trained here. Equal models are one, whatever experiment asks for them.

    Args:
        size: another size than the scale's own, as its `SIZES` name them; empty for its own.
        decorrelation: weight of the penalty on similar registers.
        slots: whether the registers compete for keys.
    """

    recipe: RecipeName
    registers: int
    size: str = ""
    decorrelation: float = 0.0
    slots: bool = False
    seed: int = 0

    @property
    def name(self) -> str:
        """Such as "trained:dinov2-reg4@0": recipe, registers, seed."""
        size, apart = f"-{self.size}" * bool(self.size), "-decorrelated" * bool(self.decorrelation)
        return f"{PREFIX}{self.recipe}{size}-reg{self.registers}{apart}{'-slots' * self.slots}@{self.seed}"

    def with_seed(self, seed: int) -> Trained:
        """Return the same model from another seed."""
        return replace(self, seed=seed)


PAIRS: tuple[Trained, ...] = tuple(Trained(recipe=recipe, registers=count) for recipe in RECIPES for count in (0, 4))
"""Each recipe without and with four registers (Figs. 7 and 14, Tables 2 and 3)."""
COUNTS = (0, 1, 2, 4, 8, 16)
"""Numbers of registers of the ablation (Fig. 8)."""
