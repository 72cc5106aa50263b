"""The settings of numbers predicted for every patch. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from vitreg.config import COUNT, MAYBE, Range
from vitreg.models.settings import ModelConfig
from vitreg.recipes.registry import Judged, RecipeConfig, Supervision, recipe

if TYPE_CHECKING:
    from vitreg.data.batches.workers import View
    from vitreg.data.views.transforms import Preprocess
    from vitreg.recipes.recipe import Recipe

Three = tuple[float, float, float]


@recipe("regression")
@dataclass(frozen=True, kw_only=True, slots=True)
class RegressionConfig(RecipeConfig):
    """Numbers for every patch, by their squared error: the task in which artifacts grow on a laptop."""

    kind: Literal["regression"] = "regression"
    """Names this recipe in configuration files."""
    channels: int = 48
    """Numbers for every patch."""
    own: int = 16
    """The first numbers, which a patch knows of itself; the error of the others, where they are not all 0, is the metric
    `asked`."""
    init: Literal["usual", "fan"] = "fan"
    """Standard deviation of the linear layers: 0.02, or width^-0.5 (fan)."""
    mean: Three = (0.485, 0.456, 0.406)
    """Mean of the pixels, which is subtracted."""
    std: Three = (0.229, 0.224, 0.225)
    """Standard deviation of the pixels, which is divided by."""
    group: int = 1
    """Consecutive samples that share draws of stochastic depth; drop_path_mode = subset needs more than one."""

    needs: ClassVar[Supervision] = "numbers"
    judged_by: ClassVar[Judged] = Judged("loss", "val_loss", "min")
    built_by: ClassVar[str] = "vitreg.recipes.patches.regression:Regression"
    ranges: ClassVar[dict[str, Range]] = {"group": COUNT, "channels": COUNT, "own": MAYBE}
    own_vit: ClassVar[str] = "reads every patch with the head"

    def view(self, size: int) -> View:
        """Take the whole picture and its numbers, as they are."""
        from vitreg.data.views.paired import WholeView

        return WholeView(size)

    def build(self, model: ModelConfig, classes: int) -> Recipe:
        """Build a network whose head reads every patch."""
        return self.module()(model, self)

    def preprocess(self, size: int) -> Preprocess:
        """Return how pictures are prepared."""
        from vitreg.data.views.transforms import IMAGENET

        return replace(IMAGENET, size=(size, size), resize=size, mean=self.mean, std=self.std)

    def check(self, model: ModelConfig) -> list[str]:
        """Compare the numbers with those that are asked."""
        if self.own >= self.channels:
            return [f"recipe.own is {self.own} of {self.channels} numbers; some must be left that are asked of others."]
        return []
