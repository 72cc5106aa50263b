"""The options of `maps`: its flags, its manual and the keywords of `vitreg.maps`. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from vitreg.errors import UserError, unknown
from vitreg.passes.keywords import Listed
from vitreg.passes.options import BLOCKS, ImageOptions, Layers

What = Literal["attention", "heads", "registers", "pca", "rgb", "norm"]
WHAT: tuple[What, ...] = get_args(What)


@dataclass(frozen=True, kw_only=True)
class MapsOptions(ImageOptions):
    """Draw attention, PCA and norm maps as contact sheets, like the paper's Figs. 1, 2, 9, 14, 15 and 16.

    Several models side by side share their colour scales: name each with -m.

    Example: vitreg maps timm:vit_base_patch14_reg4_dinov2 photos/ --what attention,norm

    Example: vitreg maps -m timm:deit3_base_patch16_224 -m timm:vit_base_patch14_reg4_dinov2 photos/
    """

    what: Annotated[tuple[What, ...], Listed("[a-z]+")] = WHAT
    """Which maps: attention (of CLS), heads (every head), registers (attention of each), pca, rgb, norm."""
    layer: Annotated[Layers, BLOCKS] = -1
    """Block whose output is drawn, such as 7; -1 is the last; several as 5,8,11; or all."""
    scale: Literal["shared", "map"] = "shared"
    """One colour scale for a whole sheet, or one for every map."""
    upsample: Literal["nearest", "bilinear"] = "nearest"
    """How patches are enlarged."""
    mass: float | None = None
    """Show only the strongest patches of each attention map, which together hold this share, such as 0.6."""
    pca_per_image: bool = False
    """Fit principal components to every image alone."""

    def __post_init__(self) -> None:
        """Refuse values that are wrong for any model. Raises UserError."""
        super().__post_init__()
        object.__setattr__(self, "what", kinds_of(self.what))
        check_mass(self.mass)


def kinds_of(what: What | Sequence[What]) -> tuple[What, ...]:
    """Return the kinds of maps requested. Raises UserError for an unknown kind, or none."""
    kinds: tuple[What, ...] = (what,) if isinstance(what, str) else tuple(what)  # type: ignore[assignment]
    for kind in kinds:
        if kind not in WHAT:
            raise unknown("kind of map", str(kind), WHAT)
    if not kinds:
        raise UserError(f"no kind of map was asked for; known: {', '.join(WHAT)}.")
    return kinds


def weights_of(weights: Any, models: int) -> list[str | Path | None]:
    """Return a checkpoint or None for each of several models. Raises UserError if the numbers differ."""
    files = [weights] if weights is None or isinstance(weights, str | Path) else list(weights)
    if files == [None]:
        return [None] * models
    if len(files) != models:
        raise UserError(
            f"{len(files)} weights for {models} model{'s' * (models != 1)}; give one for each, none where a model keeps its own."
        )
    return files


def check_mass(mass: float | None) -> None:
    """Raise UserError for a share of the attention outside (0, 1]."""
    if mass is not None and not 0 < mass <= 1:
        raise UserError(f"mass is {mass:g}; it is a share of the attention, above 0 and at most 1.")
