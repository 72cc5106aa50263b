"""DINOv2 (Oquab et al. 2023) as the paper trains it (Sec. 3.1): DINO on CLS, iBOT on hidden patches, KoLeo on the batch.

The student sees two large crops with hidden patches and several small ones; its teacher, an average of the student over
time, sees the large ones whole. Registers take part in attention and in nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.data.batches.batch import TrainBatch
from vitreg.models.heads import DinoHead
from vitreg.models.settings import ModelConfig
from vitreg.models.vit import VisionTransformer
from vitreg.recipes.losses import cls_losses, ibot_loss, koleo
from vitreg.recipes.masking import draw_block_masks, masks_weight
from vitreg.recipes.recipe import Progress, StepOutput
from vitreg.recipes.registers import register_penalty
from vitreg.recipes.self_distill.teacher import Pair, Targets, Tower
from vitreg.recipes.settings import DinoV2Config, MaskConfig


@dataclass(frozen=True, slots=True)
class HiddenPatches:
    """Hidden patches of the student's global crops, which it must predict.

    Args:
        mask: of every crop, crop by crop.
        place: of the M hidden patches in the flattened mask.
        crop_share: 1 / (hidden patches of the same crop).
        group_share: 1 / (hidden patches of the same group of samples).
    """

    mask: Bool[Tensor, "2*B P"]
    place: Int64[Tensor, "M"]
    crop_share: Float[Tensor, "M"]
    group_share: Float[Tensor, "M"]

    def choose(self, patches: Float[Tensor, "2*B P D"]) -> Float[Tensor, "M D"]:
        """Return the hidden patches."""
        return patches.flatten(0, 1).index_select(0, self.place)


def hide_patches(
    config: MaskConfig, grid: tuple[int, int], samples: int, group: int, progress: Progress, device: torch.device
) -> HiddenPatches:
    """Draw the hidden patches of two global crops of each sample, group by group as officially GPU by GPU."""
    drawn = [
        draw_block_masks(2 * group, grid, config, progress.generator("masks", number))  # [2g, P]
        for number in progress.groups(samples, group)
    ]
    by_group = torch.stack(drawn).unflatten(1, (2, group))  # [G, 2, g, P]
    group_share = by_group / by_group.sum((1, 2, 3), keepdim=True).clamp(min=1)
    mask, group_share = (x.transpose(0, 1).flatten(0, 2) for x in (by_group, group_share))  # [2B, P]
    place = mask.flatten().nonzero()[:, 0]  # computed on the CPU, to avoid a device synchronisation
    return HiddenPatches(
        *(x.to(device, non_blocking=True) for x in (mask, place, masks_weight(mask), group_share[mask]))
    )


@final
class DinoV2(Pair[DinoV2Config]):
    """A student, its teacher and their heads. A batch has a stack of two global views and one of local views."""

    def __init__(self, model: ModelConfig, config: DinoV2Config) -> None:
        vit = VisionTransformer(**model.arguments(), mask_token=True)

        def head(prototypes: int, bottleneck: int) -> DinoHead:
            return DinoHead(vit.width, config.hidden, bottleneck, prototypes, norm_last_layer=config.norm_last_layer)

        separate = head(config.ibot_prototypes, config.ibot_bottleneck) if config.separate_heads else None
        super().__init__(model, config, Tower(vit, head(config.prototypes, config.bottleneck), separate))
        self.cls_targets = Targets(config.prototypes, config.centring, config.centre_momentum)
        patch_prototypes = config.ibot_prototypes if config.separate_heads else config.prototypes
        self.patch_targets = Targets(patch_prototypes, config.centring, config.centre_momentum)

    def forward(self, batch: TrainBatch, progress: Progress) -> StepOutput:
        """Return the loss between the student's output for every crop and the teacher's for the global ones."""
        config, vit = self.config, self.student.backbone
        crops, B = batch.views[0], len(batch)  # [2, B, 3, H, W]
        layout = vit.layout((crops.shape[-2], crops.shape[-1]))
        hidden = hide_patches(config.masks, layout.grid, B, self.group, progress, crops.device)
        cls_targets, patch_targets = self.teach(crops, hidden, progress)  # [2, B, K], [M, L]

        tokens = self.student.study(self.model, batch.views, hidden.mask, self.group, progress)
        cls = [vit.pooled(stack) for stack in tokens]  # [2B, D] and [V * B, D]
        cls_logits, patch_logits = self.student.project(torch.cat(cls), hidden.choose(layout.take(tokens[0])))
        local, across = cls_losses(cls_logits.unflatten(0, (-1, B)), cls_targets, config.student_temp)
        ibot = ibot_loss(patch_logits, patch_targets, config.student_temp, hidden.crop_share, crops=2 * B)
        spread = 2 * koleo(cls[0], self.group)  # a mean over both crops, officially a sum

        loss = config.dino_weight * (local + across) + config.ibot_weight * ibot + config.koleo_weight * spread
        metrics = {
            "dino_local": local, "dino_global": across, "ibot": ibot, "koleo": spread,
            "teacher_entropy": torch.special.entr(cls_targets).sum(-1).mean(),
        }  # fmt: skip
        penalty = register_penalty(self.model, [stack[:, layout.registers] for stack in tokens])
        if penalty is not None:
            loss = loss + penalty
            metrics["decorrelation"] = penalty
        return StepOutput(loss, {name: value.detach() for name, value in metrics.items()}, B)

    @torch.no_grad()
    def teach(
        self, crops: Float[Tensor, "2 B 3 H W"], hidden: HiddenPatches, progress: Progress
    ) -> tuple[Float[Tensor, "2 B K"], Float[Tensor, "M L"]]:
        """Return the teacher's targets for each crop and each hidden patch. The teacher sees all patches."""
        vit, temperature = self.teacher.backbone, self.temperature(progress)
        tokens = vit.forward_features(crops.flatten(0, 1))  # [2B, N, D]
        layout = vit.layout((crops.shape[-2], crops.shape[-1]))
        cls, patches = self.teacher.project(vit.pooled(tokens), hidden.choose(layout.take(tokens)))
        cls_targets = self.cls_targets(cls, temperature, cls.new_ones(len(cls)))
        return cls_targets.unflatten(0, (2, -1)), self.patch_targets(patches, temperature, hidden.group_share)

    def why_whole_batch(self) -> str | None:
        """Sinkhorn-Knopp spreads the targets of the whole batch; centres are gathered over micro-batches exactly."""
        if self.config.centring == "sinkhorn":
            return "Sinkhorn-Knopp balances the teacher's targets over the whole batch; centring = softmax can be split"
        return None
