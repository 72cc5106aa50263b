"""The options that all tasks of `eval` share: flags, manual and the keywords of `vitreg.evaluate`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitreg.passes.options import ImageOptions, at_least

WITHOUT_DATA = ("complexity",)
"""Tasks that need none."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions(ImageOptions):
    """How the model is run over the data."""

    limit: int | None = None
    """Use at most this many images of each side."""
    features: Path | None = None
    """Folder where extracted features are kept and found again; the user's cache if unset."""
    download: bool = False
    """Let sets known by name fetch what is missing."""
    seed: int = 0
    """Of everything drawn at random."""

    def __post_init__(self) -> None:
        """Refuse what no model is needed for. Raises UserError."""
        super().__post_init__()
        at_least(0, "seed", self.seed)
        if self.features is not None:
            object.__setattr__(self, "features", Path(self.features))
