"""The settings of training with captions. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from vitreg.config import COUNT, Range
from vitreg.data.views.settings import check_scale
from vitreg.errors import UserError
from vitreg.recipes.registry import Judged, RecipeConfig, Supervision, recipe

if TYPE_CHECKING:
    from vitreg.data.batches.workers import Tokenize, View
    from vitreg.data.views.transforms import Preprocess


@recipe("clip")
@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig(RecipeConfig):
    """OpenCLIP. The defaults are its ViT-B/16; the paper publishes no hyper-parameters of its own."""

    kind: Literal["clip"] = "clip"
    """Names this recipe in configuration files."""
    crop_scale: tuple[float, float] = (0.9, 1.0)
    """Smallest and largest share of the picture's area that the crop covers; there is no flip (texts say left and right)."""
    embed_dim: int = 512
    """Width in which images and texts are compared."""
    text_width: int = 512
    """Channels of a token of the text tower."""
    text_heads: int = 8
    """Attention heads of the text tower."""
    text_layers: int = 12
    """Blocks of the text tower."""
    context: int = 77
    """Tokens of a text, start and end included; what is longer is cut."""
    scale_start: float = 1 / 0.07
    """Factor on the cosine similarities at the start; its logarithm is learned."""
    scale_max: float = 100.0
    """Largest factor on the cosine similarities; the smallest is 1."""
    group: int = 1
    """Consecutive samples that share draws of stochastic depth; drop_path_mode = subset needs more than one."""

    needs: ClassVar[Supervision] = "caption"
    judged_by: ClassVar[Judged] = Judged("retrieval", "recall")
    built_by: ClassVar[str] = "vitreg.recipes.clip:Clip"
    ranges: ClassVar[dict[str, Range]] = {
        "context": Range(3),  # the start, a word, the end
        **dict.fromkeys(("group", "embed_dim", "text_width", "text_heads", "text_layers"), COUNT),
    }
    left_out: ClassVar[str] = (
        "Of this CLIP run only the image tower was written; its projection and the text tower are left out."
    )

    def __post_init__(self) -> None:
        check_scale("crop_scale", self.crop_scale)
        if self.text_width % self.text_heads:
            raise UserError(
                f"a text tower of {self.text_width} channels cannot be shared by {self.text_heads} heads; "
                "make text_width a multiple of text_heads."
            )
        if not 1 <= self.scale_start <= self.scale_max:
            raise UserError(
                f"scale_start is {self.scale_start:g}, but training keeps the scale from 1 to scale_max, "
                f"{self.scale_max:g}."
            )

    def view(self, size: int) -> View:
        """Crop nearly the whole picture."""
        from vitreg.data.views.augment import clip_view

        return clip_view(size, self.crop_scale)

    def preprocess(self, size: int) -> Preprocess:
        """Prepare pictures with CLIP's own mean and std."""
        from vitreg.data.views.transforms import CLIP

        return replace(CLIP, size=(size, size), resize=size)

    def tokenizer(self) -> Tokenize:
        """Return CLIP's byte-pair tokenizer."""
        from vitreg.recipes.words import Tokenizer

        return Tokenizer(self.context)
