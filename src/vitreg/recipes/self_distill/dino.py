"""DINO (Caron et al. 2021): CLS of every crop predicts the teacher's CLS of the other global crops.

The ancestor of DINOv2 that shows no artifacts: no loss on patches, no KoLeo, prototypes of fixed length, a centre instead
of Sinkhorn-Knopp.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from vitreg.data.batches.batch import TrainBatch
from vitreg.models.heads import DinoHead
from vitreg.models.settings import ModelConfig
from vitreg.recipes.foreign import network_of
from vitreg.recipes.losses import cls_losses
from vitreg.recipes.recipe import Progress, StepOutput
from vitreg.recipes.registers import register_penalty
from vitreg.recipes.self_distill.teacher import Pair, Targets, Tower
from vitreg.recipes.settings import DinoConfig


@final
class Dino(Pair[DinoConfig]):
    """A student, its teacher and their heads. A batch has a stack of two global views and one of local views."""

    def __init__(self, model: ModelConfig, config: DinoConfig) -> None:
        vit = network_of(model)
        if config.crops.local_crops:
            vit.layout(
                (config.crops.local_size, config.crops.local_size)
            )  # refused here if the network does not take it
        head = DinoHead(
            vit.width, config.hidden, config.bottleneck, config.prototypes, norm_last_layer=config.norm_last_layer
        )
        super().__init__(model, config, Tower(vit, head))
        self.targets = Targets(config.prototypes, "softmax", config.centre_momentum)

    def forward(self, batch: TrainBatch, progress: Progress) -> StepOutput:
        """Return the loss between the student's output for every crop and the teacher's for the global ones."""
        vit, B = self.student.backbone, len(batch)
        targets = self.teach(batch.views[0], progress)  # [2, B, K]
        tokens = self.student.study(self.model, batch.views, None, self.group, progress)
        logits = self.student.dino_head(torch.cat([vit.pooled(stack) for stack in tokens])).float()
        local, across = cls_losses(logits.unflatten(0, (-1, B)), targets, self.config.student_temp)
        loss = local + across
        metrics = {
            "dino_local": local, "dino_global": across,
            "teacher_entropy": torch.special.entr(targets).sum(-1).mean(),
        }  # fmt: skip
        registers = vit.layout().registers
        penalty = register_penalty(self.model, [stack[:, registers] for stack in tokens])
        if penalty is not None:
            loss = loss + penalty
            metrics["decorrelation"] = penalty
        return StepOutput(loss, {name: value.detach() for name, value in metrics.items()}, B)

    @torch.no_grad()
    def teach(self, crops: Float[Tensor, "2 B 3 H W"], progress: Progress) -> Float[Tensor, "2 B K"]:
        """Return the teacher's targets for each global crop."""
        vit, temperature = self.teacher.backbone, self.temperature(progress)
        logits = self.teacher.dino_head(vit.pooled(vit.forward_features(crops.flatten(0, 1)))).float()  # [2B, K]
        return self.targets(logits, temperature, logits.new_ones(len(logits))).unflatten(0, (2, -1))

    def why_whole_batch(self) -> str | None:
        """Samples meet in the centre only, which is gathered over micro-batches exactly: any split is exact."""
        return None
