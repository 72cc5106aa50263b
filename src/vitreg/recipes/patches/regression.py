"""Numbers for every patch, by their squared error on the patches of which something is asked; or for the whole image."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from vitreg.data.batches.batch import TrainBatch
from vitreg.errors import UserError
from vitreg.models.depth import draw_depth
from vitreg.models.settings import ModelConfig
from vitreg.models.vit import VisionTransformer
from vitreg.recipes.network import OneNetwork
from vitreg.recipes.recipe import Progress, StepOutput
from vitreg.recipes.registers import keep_registers, register_penalty
from vitreg.recipes.settings.regression import RegressionConfig


@final
class Regression(OneNetwork):
    """A ViT whose head reads every patch; it is published with the network.

    Of data with numbers for the whole image ([B, 1, 1, C]) the head reads what it reads of any ViT: CLS, or the mean patch.
    """

    network: VisionTransformer

    def __init__(self, model: ModelConfig, config: RegressionConfig) -> None:
        vit = VisionTransformer(**model.arguments(), num_classes=config.channels)
        super().__init__(vit, config.group)
        self.model, self.config = model, config
        if config.init == "fan":
            init_by_width(vit)

    def forward(self, batch: TrainBatch, progress: Progress) -> StepOutput:
        """Predict the numbers of all patches, or of the image, and compare those that are asked (not NaN)."""
        images, vit = batch.views[0][0], self.network  # [B, 3, H, W]
        if batch.targets is None:
            raise ValueError("regression needs numbers for every patch")
        depth = draw_depth(
            self.model.drop_path, len(vit.blocks), len(images), self.model.drop_path_mode, self.group, progress
        )
        kept = keep_registers(self.model, len(images), self.group, progress)
        tokens = vit.forward_features(images, depth=depth, registers_kept=kept)  # [B, N, D]
        layout = vit.layout((images.shape[-2], images.shape[-1]))
        whole = batch.targets.shape[1:3] == (1, 1)
        read = vit.pooled(tokens)[:, None] if whole else layout.take(tokens)
        predicted = vit.head(read).float()  # [B, P, C], or [B, 1, C]
        grid = (1, 1) if whole else layout.grid
        loss, metrics = self._errors(predicted, _as_patches(batch.targets, predicted, grid))
        penalty = register_penalty(self.model, [tokens[:, layout.registers]])
        if penalty is not None:
            loss = loss + penalty
            metrics["decorrelation"] = penalty.detach()
        return StepOutput(loss, metrics, len(images))

    def _errors(self, predicted: Tensor, wanted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean squared error of what is asked, and those of a patch's own numbers and of the others."""
        judged = ~wanted.isnan().any(-1)  # [B, P]
        squared = (predicted - wanted.nan_to_num()).square()
        loss = (squared.mean(-1) * judged).sum() / judged.sum()
        own, others = squared.detach().split([self.config.own, self.config.channels - self.config.own], dim=-1)
        asked = judged & (wanted[..., self.config.own :] != 0).any(-1)
        metrics = {
            "error": loss.detach(),
            "own": (own.mean(-1) * judged).sum() / judged.sum() if self.config.own else loss.new_zeros(()),
            "asked": (others.mean(-1) * asked).sum() / asked.sum().clamp(min=1),
        }
        return loss, metrics


def _as_patches(numbers: Tensor, predicted: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the numbers of a batch as [B, P, C].

    Raises:
        UserError: if there are other numbers or other patches.
    """
    rows, cols, channels = numbers.shape[1:]
    if (rows, cols) != grid:
        raise UserError(
            f"these data have numbers for {rows}x{cols} patches and the model {grid[0]}x{grid[1]}; choose --model.image-size "
            "and --model.patch for them."
        )
    if channels != predicted.shape[-1]:
        raise UserError(
            f"these data have {channels} numbers for every patch; set --recipe.channels {channels}, not {predicted.shape[-1]}."
        )
    return numbers.flatten(1, 2)


@torch.no_grad()
def init_by_width(vit: VisionTransformer) -> None:
    """Draw every linear layer width^-0.5 wide: with 0.02 a narrow network starts nearly silent."""
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=vit.width**-0.5)
