"""The settings of masked autoencoders. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vitreg.config import COUNT, Range
from vitreg.data.views.settings import check_scale
from vitreg.errors import UserError
from vitreg.models.settings import ModelConfig
from vitreg.recipes.registry import RecipeConfig, objection, recipe

if TYPE_CHECKING:
    from vitreg.data.batches.workers import View


@recipe("mae")
@dataclass(frozen=True, kw_only=True, slots=True)
class MaeConfig(RecipeConfig):
    """MAE. The defaults are those of its official pre-training on ImageNet-1k."""

    kind: Literal["mae"] = "mae"
    """Names this recipe in configuration files."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest share of the picture's area that the crop covers, before a random flip."""
    mask_ratio: float = 0.75
    """Share of the patches that are hidden from the encoder."""
    norm_pixels: bool = True
    """Predict the pixels of a patch after subtracting their mean and dividing by their standard deviation."""
    decoder_width: int = 512
    """Channels of a token of the decoder."""
    decoder_depth: int = 8
    """Blocks of the decoder."""
    decoder_heads: int = 16
    """Attention heads of the decoder."""
    group: int = 1
    """Consecutive samples that share draws of masks and stochastic depth; drop_path_mode = subset needs more than one."""

    built_by: ClassVar[str] = "vitreg.recipes.mae:Mae"
    ranges: ClassVar[dict[str, Range]] = dict.fromkeys(
        ("group", "decoder_width", "decoder_depth", "decoder_heads"), COUNT
    )
    own_vit: ClassVar[str] = "hides patches from the encoder"

    def __post_init__(self) -> None:
        check_scale("crop_scale", self.crop_scale)
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"mask_ratio must lie between 0 and 1 to leave something to see, not {self.mask_ratio:g}.")
        if self.decoder_width % 4 or self.decoder_width % self.decoder_heads:
            raise UserError(
                f"a decoder of {self.decoder_width} channels and {self.decoder_heads} heads cannot be built; "
                "make decoder_width a multiple of decoder_heads and of 4."
            )

    def view(self, size: int) -> View:
        """Crop and mirror."""
        from vitreg.data.views.augment import mae_view

        return mae_view(size, self.crop_scale)

    def check(self, model: ModelConfig) -> list[str]:
        """Hide patches once: some must be visible and some hidden. Their places are told by a table."""
        if model.positions != "learned":
            return [
                f"--recipe.kind mae fixes a table of sines and cosines, and --model.positions is {model.positions}; leave it learned."
            ]
        import torch

        from vitreg.recipes.masking import keep_and_restore

        patches = (model.image_size // model.patch) ** 2
        return objection(lambda: keep_and_restore(1, patches, self.mask_ratio, torch.Generator()))
