"""The options shared by all tasks of `eval`: flags, manual and the keywords of `vitreg.evaluate`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitreg.passes.options import ImageOptions, at_least

WITHOUT_DATA = ("complexity",)
"""Tasks without DATA."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions(ImageOptions):
    """How the model is run over the data."""

    limit: int | None = None
    """Use at most this many images of each side."""
    features: Path | None = None
    """Folder of stored features, which later runs reuse; the user's cache if unset."""
    download: bool = False
    """Let named sets download missing files."""
    seed: int = 0
    """Seed of all random draws."""

    def __post_init__(self) -> None:
        """Refuse values that are wrong for any model. Raises UserError."""
        super().__post_init__()
        at_least(0, "seed", self.seed)
