"""The same steps as a user of timm, open_clip or lightly writes them from their documentation, with fused optimisers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from ours import Case, text_tower
from torch import nn

TIMM = {"T": "tiny", "S": "small", "B": "base", "L": "large"}


def timm_step(case: Case, optimiser: str) -> Callable[[], float]:
    """As in timm's train.py: its model, Mixup, loss, parameter groups and LAMB (or AdamW with clipped gradients)."""
    import timm
    from timm.data.mixup import Mixup
    from timm.loss import SoftTargetCrossEntropy
    from timm.optim import Lamb, param_groups_weight_decay

    model = timm.create_model(
        f"vit_{TIMM[case.size]}_patch16_224", img_size=case.pixels, reg_tokens=case.registers, no_embed_class=True,
        init_values=1e-4, drop_path_rate=case.drop_path, num_classes=case.classes,
    ).to(case.device)  # fmt: skip
    forward = torch.compile(model) if case.compile else model
    mixup = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=case.classes)
    criterion = SoftTargetCrossEntropy()
    groups = param_groups_weight_decay(model, 0.02)
    optimizer = Lamb(groups, lr=1e-4) if optimiser == "lamb" else torch.optim.AdamW(groups, lr=1e-4, fused=True)
    images, labels = case.images(), case.labels()

    def step() -> float:
        mixed, targets = mixup(images, labels)  # in place: a loader gives new images every time
        with autocast(case):
            loss = criterion(forward(mixed), targets)
        loss.backward()
        if optimiser == "adamw":
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def open_clip_step(case: Case) -> Callable[[], float]:
    """As in open_clip_train: its two towers, ClipLoss, AdamW without decay on vectors, the scale clamped."""
    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    from vitreg.models.settings import SIZES

    width, depth, heads = SIZES[case.size]
    text = text_tower(case)
    model = CLIP(
        embed_dim=text["width"],
        vision_cfg=CLIPVisionCfg(
            layers=depth, width=width, head_width=width // heads, patch_size=16, image_size=case.pixels
        ),
        text_cfg=CLIPTextCfg(context_length=case.text, **text),
    ).to(case.device)
    forward = torch.compile(model) if case.compile else model
    vectors = [p for name, p in model.named_parameters() if p.ndim < 2 or "bn" in name or "ln" in name]
    kept = {id(p) for p in vectors}
    matrices = [p for p in model.parameters() if id(p) not in kept]
    groups = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices, "weight_decay": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98), eps=1e-6, fused=True)
    criterion = ClipLoss(cache_labels=True)
    images, captions = case.images(), case.captions()

    def step() -> float:
        optimizer.zero_grad()
        with autocast(case):
            loss = criterion(*forward(images, captions))
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)
        return loss.item()

    return step


class Lightly(nn.Module):
    """Student, teacher and their head as in lightly's DINOv2 example."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        from lightly.models.modules import DINOv2ProjectionHead, MaskedVisionTransformerTIMM
        from lightly.models.utils import update_drop_path_rate
        from timm import create_model

        vit = create_model(
            f"vit_{TIMM[case.size]}_patch16_224", img_size=case.pixels, pos_embed="learn", dynamic_img_size=True,
            init_values=1e-5, reg_tokens=case.registers, no_embed_class=True, num_classes=0,
        )  # fmt: skip
        self.teacher_backbone = MaskedVisionTransformerTIMM(vit=vit, antialias=False, pos_embed_initialization="skip")
        self.student_backbone = copy.deepcopy(self.teacher_backbone)
        update_drop_path_rate(self.student_backbone.vit, drop_path_rate=case.drop_path, mode="uniform")
        self.student_head = DINOv2ProjectionHead(
            input_dim=vit.embed_dim, hidden_dim=2048, bottleneck_dim=256, output_dim=case.prototypes
        )
        self.teacher_head = DINOv2ProjectionHead(
            input_dim=vit.embed_dim, hidden_dim=2048, bottleneck_dim=256, output_dim=case.prototypes
        )
        self.teacher_head.load_state_dict(self.student_head.state_dict())
        if case.compile:
            for block in (*self.teacher_backbone.vit.blocks, *self.student_backbone.vit.blocks):
                block.compile()
        for module in (self.teacher_backbone, self.teacher_head):
            module.requires_grad_(False).eval()


def lightly_step(case: Case) -> Callable[[], float]:
    """The training loop of lightly's DINOv2 example, with the official gradient clipping."""
    from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
    from lightly.models.utils import random_block_mask, update_momentum

    model = Lightly(case).to(case.device)
    dino, ibot, koleo = (
        DINOLoss(output_dim=case.prototypes), IBOTPatchLoss(output_dim=case.prototypes), KoLeoLoss(),
    )  # fmt: skip
    dino, ibot = dino.to(case.device), ibot.to(case.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.04, fused=True)
    global_views = case.images(2).flatten(0, 1)
    local_views = case.images(case.local_crops, pixels=case.local_pixels).flatten(0, 1)
    vit = model.teacher_backbone.vit
    crops, (rows, cols), prefix = len(global_views), vit.patch_embed.grid_size, vit.num_prefix_tokens
    smallest = min(
        4, rows * cols // 10
    )  # of a block: lightly refuses crops so small that a tenth is less than 4 patches

    def step() -> float:
        # Drawn on the CPU: on a GPU, where the example has it, every block that it tries waits for the device.
        block_mask = random_block_mask((crops, rows, cols), min_num_masks_per_block=smallest).to(case.device)
        mask = torch.zeros(crops, prefix + rows * cols, dtype=torch.bool, device=case.device)
        mask[:, prefix:] = block_mask.flatten(start_dim=1)
        with autocast(case):
            with torch.no_grad():
                features = model.teacher_backbone.encode(global_views)
                teacher_cls = model.teacher_head(features[:, 0])
                teacher_masked = model.teacher_head(features[mask])
            features = model.student_backbone.encode(global_views, mask=mask)
            cls = features[:, 0]
            student_cls, student_masked = model.student_head(cls), model.student_head(features[mask])
            local = model.student_head(model.student_backbone.encode(local_views)[:, 0])
            loss = (
                dino(
                    teacher_out=teacher_cls.chunk(2),
                    student_out=torch.cat([student_cls, local]).chunk(2 + case.local_crops),
                    teacher_temp=0.07,
                )
                + ibot(teacher_out=teacher_masked, student_out=student_masked, mask=block_mask, teacher_temp=0.07)
                + 0.1 * sum(koleo(part) for part in cls.chunk(2))
            )
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 3.0)
        optimizer.step()
        optimizer.zero_grad()
        update_momentum(model.student_backbone, model.teacher_backbone, m=0.994)
        update_momentum(model.student_head, model.teacher_head, m=0.994)
        return loss.item()

    return step


def autocast(case: Case) -> torch.autocast:
    return torch.autocast(case.device.type, case.precision, enabled=case.precision != torch.float32)
