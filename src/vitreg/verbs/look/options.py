"""The options of `look`: its flags, its manual and the keywords of `vitreg.look`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Suppress, UseAppendAction, arg

from vitreg.passes.keywords import Fitted, Size
from vitreg.passes.options import Fit, LoadOptions, at_least, check_size


@dataclass(frozen=True, kw_only=True)
class LookOptions(Fitted):
    """Look at a photo through a Vision Transformer: one sentence, and one picture of its maps.

    The sentence says whether patch tokens form a second group of norms, how many, how large and where. The picture shows
    the photo, the norms, the attention of CLS, principal components and registers; several models stand below one another.

    Without -m it takes a model known for artifacts whose weights lie in a local cache; if there is none, a model with
    PLANTED artifacts and its clean twin. One photo establishes nothing; `vitreg scan` measures a model on many.

    Example: vitreg look photo.jpg

    Example: vitreg look photo.jpg -m timm:vit_base_patch14_dinov2.lvd142m -m timm:vit_base_patch14_reg4_dinov2.lvd142m
    """

    repair: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="DIR")] = ()
    """Also apply the repair in this folder, which vitreg fix wrote, to the model it was fitted on; may be repeated."""
    size: Size | None = None
    """Image size, 518 or 384x512 (height x width); the model's own if unset."""
    fit: Fit = "resize"
    """What to do where a side is no multiple of the patch; the model's own size is left as it is."""
    limit: int = 8
    """Look at most at this many photos."""

    def __post_init__(self) -> None:
        """Refuse values that are wrong for any model. Raises UserError."""
        super().__post_init__()
        check_size(self.size)
        at_least(1, "limit", self.limit)

    @property
    def pixels(self) -> tuple[int, int] | None:
        """The size as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


@dataclass(frozen=True, kw_only=True)
class LoadingOptions(LoadOptions):
    """How to load the models and run them; repairs are rows of their own."""

    repair: Suppress[Path | None] = None
