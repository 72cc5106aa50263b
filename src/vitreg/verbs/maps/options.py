"""The options of `maps`: its flags, its manual and the keywords of `vitreg.maps`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from vitreg.passes.keywords import Listed
from vitreg.passes.options import BLOCKS, ImageOptions, Layers
from vitreg.verbs.maps.values import WHAT, What, check_mass, kinds_of


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
