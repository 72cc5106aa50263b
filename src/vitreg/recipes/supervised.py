"""Training with labels as DeiT-III does (the paper, Sec. 3.1): Mixup and CutMix, then cross-entropy or BCE on the head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import nn

from vitreg.data.batches.batch import TrainBatch
from vitreg.data.views.mixing import mix
from vitreg.models.depth import draw_depth
from vitreg.models.settings import ModelConfig
from vitreg.recipes.average import Average
from vitreg.recipes.foreign import Network, network_of
from vitreg.recipes.losses import binary_cross_entropy, soft_cross_entropy
from vitreg.recipes.parameters import ParamGroup, group_parameters
from vitreg.recipes.recipe import Progress, StepOutput
from vitreg.recipes.registers import keep_registers, register_penalty
from vitreg.recipes.settings import OptimConfig, SupervisedConfig


@final
class Supervised(nn.Module):
    """A ViT, vitreg's own or of another library, with a classifier."""

    def __init__(self, model: ModelConfig, config: SupervisedConfig, num_classes: int) -> None:
        super().__init__()
        self.model, self.config, self.group = model, config, config.group
        self.num_classes = num_classes
        self.vit = network_of(model, num_classes)
        self.average = Average(self.vit, config.ema)

    def forward(self, batch: TrainBatch, progress: Progress) -> StepOutput:
        """Mix the images, classify them, compare with the mixed labels."""
        images = batch.views[0][0]  # [B, 3, H, W]
        if batch.targets is None:
            raise ValueError("supervised training needs labels")
        images, targets = mix(images, batch.targets, self.num_classes, self.config.mix, progress, self.group)
        depth = draw_depth(
            self.model.drop_path, len(self.vit.blocks), len(images), self.model.drop_path_mode, self.group, progress
        )
        kept = keep_registers(self.model, len(images), self.group, progress)
        tokens = self.vit.forward_features(images, depth=depth, registers_kept=kept)  # [B, N, D]
        logits = self.vit.classify(tokens).float()  # [B, C]
        loss = (
            soft_cross_entropy(logits, targets) if self.config.loss == "ce" else binary_cross_entropy(logits, targets)
        )
        metrics = {"classification": loss.detach()}
        penalty = register_penalty(self.model, [tokens[:, self.vit.layout().registers]])
        if penalty is not None:
            loss = loss + penalty
            metrics["decorrelation"] = penalty.detach()
        metrics["train_top1"] = (logits.argmax(-1) == targets.argmax(-1)).float().mean()
        return StepOutput(loss, metrics, len(images))

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Move the averaged weights."""
        self.average.follow(self.vit)

    def parameter_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """Sort the weights of the ViT and its classifier."""
        return group_parameters(self, optim)

    def begin_with(self, fill: Callable[[Any], list[str]]) -> list[str]:
        """Start from other weights."""
        notes = fill(self.vit)
        self.average.start_at(self.vit)
        return notes

    def backbone(self) -> Network:
        """The averaged network where one is kept."""
        return self.average.network or self.vit

    def why_whole_batch(self) -> str | None:
        """Samples of different groups do not interact: any split is exact."""
        return None

    def shards(self) -> list[nn.Module]:
        """The blocks."""
        return [*self.vit.blocks, *(self.average.network.blocks if self.average.network else ())]
