"""The settings of DINOv2 and DINO: a student learns from its own average. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from vitreg.config import AMOUNT, COUNT, FACTOR, SHARE, Range
from vitreg.data.views.settings import DINO_CROPS, MultiCropConfig
from vitreg.models.settings import ModelConfig
from vitreg.recipes.registry import RecipeConfig, objection, recipe
from vitreg.recipes.settings.masks import MaskConfig

if TYPE_CHECKING:
    from vitreg.data.batches.workers import View


PAIR = {
    **dict.fromkeys(("group", "prototypes", "hidden", "bottleneck", "epoch_steps"), COUNT),
    **dict.fromkeys(("student_temp", "teacher_temp", "teacher_temp_start"), FACTOR),
    **dict.fromkeys(("teacher_temp_epochs", "freeze_last_layer"), AMOUNT),
    **dict.fromkeys(("momentum", "momentum_end", "centre_momentum"), SHARE),
}
"""Ranges of what both recipes set."""


@recipe("dinov2")
@dataclass(frozen=True, kw_only=True, slots=True)
class DinoV2Config(RecipeConfig):
    """DINOv2. The defaults are the ViT-L/14 from scratch on ImageNet-22k, which the paper uses."""

    kind: Literal["dinov2"] = "dinov2"
    """Names this recipe in configuration files."""
    crops: MultiCropConfig = field(default_factory=MultiCropConfig)
    """From picture to two global and several local crops."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """Which patches of the student's global crops are hidden."""
    prototypes: int = 131072
    """Logits of the head on CLS."""
    hidden: int = 2048
    """Width of the hidden layers of both heads."""
    bottleneck: int = 384
    """Width in which the head on CLS compares features with prototypes."""
    separate_heads: bool = True
    """Give patches a head of their own; otherwise the head on CLS serves both (the official short recipe)."""
    ibot_prototypes: int = 131072
    """Logits of the separate head on patches."""
    ibot_bottleneck: int = 256
    """Bottleneck of the separate head on patches."""
    norm_last_layer: bool = False
    """Keep the prototypes at length 1 (DINO); DINOv2 trains their length too."""
    student_temp: float = 0.1
    """Temperature of the student's softmax."""
    teacher_temp_start: float = 0.04
    """Temperature of the teacher's targets at the first step."""
    teacher_temp: float = 0.07
    """Temperature of the teacher's targets after the warm-up."""
    teacher_temp_epochs: float = 30.0
    """Length of the linear warm-up of the teacher's temperature."""
    centring: Literal["sinkhorn", "softmax"] = "sinkhorn"
    """Spread the targets over the prototypes by Sinkhorn-Knopp, or subtract a running mean (the short recipe)."""
    centre_momentum: float = 0.9
    """Share of the old centre kept at each step; for centring = softmax."""
    dino_weight: float = 1.0
    """Weight of the loss on CLS, local and global."""
    ibot_weight: float = 1.0
    """Weight of the loss on hidden patches, a mean over all global crops, with hidden patches or not (as officially)."""
    koleo_weight: float = 0.1
    """Weight of the spreading of CLS features, for each of the two global crops."""
    momentum: float = 0.994
    """Share of the old teacher kept at the first step."""
    momentum_end: float = 1.0
    """Share of the old teacher kept at the end, reached along a cosine."""
    freeze_last_layer: float = 1.0
    """Epochs during which the prototypes do not learn."""
    epoch_steps: int = 1250
    """Optimiser steps that count as an epoch, whatever the size of the data (official: 1250)."""
    group: int = 32
    """Consecutive samples that share masks, stochastic depth and KoLeo's neighbours; officially the images of one GPU."""

    built_by: ClassVar[str] = "vitreg.recipes.self_distill.dinov2:DinoV2"
    ranges: ClassVar[dict[str, Range]] = PAIR | {
        **dict.fromkeys(("ibot_prototypes", "ibot_bottleneck"), COUNT),
        **dict.fromkeys(("dino_weight", "ibot_weight", "koleo_weight"), AMOUNT),
    }
    own_vit: ClassVar[str] = "hides patches from the student"

    def view(self, size: int) -> View:
        """Cut two global crops and some local ones."""
        from vitreg.data.views.multicrop import multicrop_view

        return multicrop_view(size, self.crops)

    def check(self, model: ModelConfig) -> list[str]:
        """Draw the masks of a group once, and look at what is compared within it."""
        import torch

        from vitreg.recipes.masking import draw_block_masks

        rows = model.image_size // model.patch
        found = objection(lambda: draw_block_masks(2 * self.group, (rows, rows), self.masks, torch.Generator()))
        if self.koleo_weight and self.group < 2:
            found.append("KoLeo compares images of a group, and recipe.group is 1; make it 2 or koleo_weight 0.")
        return [*found, *_misfit(self.crops, model)]

    def official_epoch(self) -> int:
        """Return the steps that count as an epoch."""
        return self.epoch_steps


@recipe("dino")
@dataclass(frozen=True, kw_only=True, slots=True)
class DinoConfig(RecipeConfig):
    """DINO. The defaults are those of its official code."""

    kind: Literal["dino"] = "dino"
    """Names this recipe in configuration files."""
    crops: MultiCropConfig = DINO_CROPS
    """From picture to two global and several local crops."""
    prototypes: int = 65536
    """Logits of the head."""
    hidden: int = 2048
    """Width of the hidden layers of the head."""
    bottleneck: int = 256
    """Width in which the head compares features with prototypes."""
    norm_last_layer: bool = True
    """Keep the prototypes at length 1."""
    student_temp: float = 0.1
    """Temperature of the student's softmax."""
    teacher_temp_start: float = 0.04
    """Temperature of the teacher's targets at the first step."""
    teacher_temp: float = 0.04
    """Temperature of the teacher's targets after the warm-up (ViT-B: 0.07)."""
    teacher_temp_epochs: float = 0.0
    """Length of the linear warm-up of the teacher's temperature (ViT-B: 50)."""
    centre_momentum: float = 0.9
    """Share of the old centre kept at each step."""
    momentum: float = 0.996
    """Share of the old teacher kept at the first step."""
    momentum_end: float = 1.0
    """Share of the old teacher kept at the end, reached along a cosine."""
    freeze_last_layer: float = 1.0
    """Epochs during which the prototypes do not learn."""
    epoch_steps: int = 1251
    """Optimiser steps that count as an epoch, whatever the size of the data (ImageNet-1k at 1024 images a step: 1251)."""
    group: int = 64
    """Consecutive samples that share draws of stochastic depth; nothing else depends on it."""

    built_by: ClassVar[str] = "vitreg.recipes.self_distill.dino:Dino"
    ranges: ClassVar[dict[str, Range]] = PAIR

    def view(self, size: int) -> View:
        """Cut two global crops and some local ones."""
        from vitreg.data.views.multicrop import multicrop_view

        return multicrop_view(size, self.crops)

    def check(self, model: ModelConfig) -> list[str]:
        """Look whether patches divide the small crops."""
        return _misfit(self.crops, model)

    def official_epoch(self) -> int:
        """Return the steps that count as an epoch."""
        return self.epoch_steps


def _misfit(crops: MultiCropConfig, model: ModelConfig) -> list[str]:
    """Say that patches do not divide the small crops."""
    if model.base is not None or not crops.local_crops or not crops.local_size % model.patch:
        return []
    near = max(1, round(crops.local_size / model.patch)) * model.patch
    return [f"recipe.crops.local_size {crops.local_size} is no multiple of the {model.patch}-pixel patch; {near} is."]
