"""The settings of training with labels. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from vitreg.config import COUNT, SHARE, Range
from vitreg.data.views.settings import AugmentConfig, MixConfig
from vitreg.errors import UserError
from vitreg.models.settings import ModelConfig
from vitreg.recipes.registry import Judged, RecipeConfig, Supervision, recipe

if TYPE_CHECKING:
    from vitreg.data.batches.workers import View
    from vitreg.recipes.recipe import Recipe


@recipe("supervised")
@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisedConfig(RecipeConfig):
    """DeiT-III. The defaults are its ImageNet-21k pre-training, which the paper uses."""

    kind: Literal["supervised"] = "supervised"
    """Names this recipe in configuration files."""
    loss: Literal["ce", "bce"] = "ce"
    """Cross-entropy on soft targets (ImageNet-21k), or BCE on targets above 0 (ImageNet-1k)."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """From picture to crop."""
    mix: MixConfig = field(default_factory=lambda: MixConfig(mixup=0.0, cutmix=1.0, smoothing=0.1))
    """Mixup, CutMix and label smoothing."""
    repeats: int = 1
    """Copies of a sample in a step, differently augmented (repeated augmentation; 3 on ImageNet-1k)."""
    ema: float | None = None
    """Also keep averaged weights, with this momentum, and evaluate those (DeiT keeps 0.99996 and evaluates the raw)."""
    group: int = 64
    """Consecutive samples that share the lambda of Mixup; officially the images of one GPU."""

    needs: ClassVar[Supervision] = "label"
    judged_by: ClassVar[Judged] = Judged("top1", "top1")
    built_by: ClassVar[str] = "vitreg.recipes.supervised:Supervised"
    ranges: ClassVar[dict[str, Range]] = {"group": COUNT, "repeats": COUNT, "ema": SHARE}

    def __post_init__(self) -> None:
        if self.loss == "bce" and self.mix.smoothing:
            raise UserError(
                "loss bce takes every target above 0 as present, and smoothing makes all of them so; set one."
            )

    def view(self, size: int) -> View:
        """Crop and colour as DeiT-III."""
        from vitreg.data.views.augment import deit3_view

        return deit3_view(size, self.augment)

    def build(self, model: ModelConfig, classes: int) -> Recipe:
        """Build a network with a classifier."""
        return self.module()(model, self, classes)

    def copies(self) -> int:
        """Count how often a sample stands in a step (repeated augmentation)."""
        return self.repeats
