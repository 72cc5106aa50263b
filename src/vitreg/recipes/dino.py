"""DINO (Caron et al. 2021): CLS of every crop predicts the teacher's CLS of the other global crops.

The ancestor of DINOv2 that shows no artifacts: no loss on patches, no KoLeo, prototypes of fixed length, a centre instead
of Sinkhorn-Knopp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.data.batches.batch import TrainBatch
from vitreg.models.heads import DinoHead
from vitreg.models.settings import ModelConfig
from vitreg.models.vit import VisionTransformer
from vitreg.recipes.average import move_towards
from vitreg.recipes.losses import cls_losses
from vitreg.recipes.parameters import ParamGroup
from vitreg.recipes.recipe import Progress, StepOutput
from vitreg.recipes.registers import register_penalty
from vitreg.recipes.settings import DinoConfig, OptimConfig
from vitreg.recipes.teacher import Targets, Tower, teacher_of, teacher_temperature
from vitreg.schedule import cosine


@final
class Dino(nn.Module):
    """A student, its teacher and their heads. A batch has a stack of two global views and one of local views."""

    def __init__(self, model: ModelConfig, config: DinoConfig) -> None:
        super().__init__()
        self.model, self.config, self.group = model, config, config.group
        vit = VisionTransformer(**model.arguments())
        head = DinoHead(
            vit.width, config.hidden, config.bottleneck, config.prototypes, norm_last_layer=config.norm_last_layer
        )
        self.student = Tower(vit, head)
        self.teacher = teacher_of(self.student)
        self.targets = Targets(config.prototypes, "softmax", config.centre_momentum)

    def forward(self, batch: TrainBatch, progress: Progress) -> StepOutput:
        """Compare what the student makes of every crop with what the teacher makes of the global ones."""
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
        """Return what the student should say of each global crop."""
        config, vit = self.config, self.teacher.backbone
        temperature = teacher_temperature(
            progress, config.teacher_temp_start, config.teacher_temp, config.teacher_temp_epochs
        )
        logits = self.teacher.dino_head(vit.pooled(vit.forward_features(crops.flatten(0, 1)))).float()  # [2B, K]
        return self.targets(logits, temperature, logits.new_ones(len(logits))).unflatten(0, (2, -1))

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Move the centre, and the teacher towards the student."""
        self.targets.move()
        momentum = cosine(progress.step, self.config.momentum, self.config.momentum_end, progress.total)
        move_towards(self.teacher, self.student, momentum)

    def train(self, mode: bool = True) -> Dino:
        """Leave the teacher as it is, in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def parameter_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """Sort the weights of the student; prototypes do not learn in the first epoch."""
        frozen = round(self.config.freeze_last_layer * self.config.epoch_steps)
        return self.student.parameter_groups(optim, "student", frozen)

    def begin_with(self, fill: Callable[[VisionTransformer], list[str]]) -> list[str]:
        """Start student and teacher from other weights."""
        notes = fill(self.student.backbone)
        move_towards(self.teacher, self.student, 0.0)
        return notes

    def backbone(self) -> VisionTransformer:
        """The teacher's network."""
        return self.teacher.backbone

    def why_whole_batch(self) -> str | None:
        """Samples meet in the centre only, which is gathered over micro-batches exactly: any split is exact."""
        return None

    def shards(self) -> list[nn.Module]:
        """The blocks of student and teacher."""
        return [*self.student.backbone.blocks, *self.teacher.backbone.blocks]
