"""A small ViT with outliers at two places, whose class token reads them or is blind to them: the answer is known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import timm
import torch
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.repair.fitting import subject_of
from vitreg.repair.settings import FitOptions
from vitreg.repair.subject import Subject

SIDE, PATCH, WIDTH, DEPTH, HEADS, CLASSES = 64, 8, 32, 3, 2, 5
SINKS = (9, 50)  # places on the grid
NORM, LOGIT = 60.0, 6.0


def network(
    *, reads: bool = True, registers: int = 0, classes: int = CLASSES, sinks: bool = True, cls: bool = True
) -> torch.nn.Module:
    """Build it. Its outliers hold what their patch shows and a long vector; only the class token looks for it."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS,
        num_classes=classes, reg_tokens=registers, no_embed_class=True, class_token=cls,
        global_pool="token" if cls else "avg",
    ).eval()  # fmt: skip
    zero_sum = torch.zeros(2, WIDTH)
    for row, direction in enumerate(zero_sum):
        direction[4 * row : 4 * row + 4] = torch.tensor([0.5, -0.5, 0.5, -0.5])
    outlier, asks = zero_sum
    size = WIDTH // HEADS
    with torch.no_grad():
        model.pos_embed.normal_(std=0.3)
        if registers:
            model.reg_token.normal_()
        if cls:
            model.cls_token.copy_(20 * asks.expand(1, 1, -1))
        if sinks:
            model.pos_embed[0, list(SINKS)] += NORM * outlier
        for block in model.blocks:
            q, k, v = block.attn.qkv.weight.split(WIDTH)
            block.attn.qkv.bias.zero_()
            block.attn.proj.weight.normal_(std=0.5)
            v.normal_(std=0.4)
            q.normal_(std=0.05)
            k.normal_(std=0.05)
            for head in range(HEADS):
                # Both vectors have a length of sqrt(WIDTH) after the LayerNorm: a logit of LOGIT or -LOGIT.
                gain = (LOGIT * size**0.5 / WIDTH) ** 0.5
                q[head * size] += gain * asks
                k[head * size] += gain * outlier * (1 if reads else -1)
        if classes:
            model.head.weight.normal_()
    return model


def images(count: int = 24) -> Tensor:
    """Return random images, each with a colour of its own in every patch."""
    draw = torch.Generator().manual_seed(1)
    colours = torch.randn(count, 3, SIDE // PATCH, SIDE // PATCH, generator=draw)
    return 2 * colours.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)


@contextlib.contextmanager
def subject(model: torch.nn.Module, count: int = 24) -> Iterator[Subject]:
    with subject_of(Backbone(model), images(count), FitOptions(), choose=False) as found:
        yield found


def judged(found: Subject) -> Tensor:
    """Return the images that effects are measured on."""
    return torch.cat(list(found.batches("held_out")))
