"""Makes a small model what trained ones are: logits of 200 and more, all of a row near its peak, tokens of 100x norm."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitreg.backbones.backbone import Backbone
from vitreg.backbones.trace import Capture

KINDS = ("spread", "near the peak", "outliers")


def sharpened(module: nn.Module, largest: float, kind: str) -> nn.Module:
    """Return a float32 copy whose largest logit is `largest` in every block.

    Args:
        kind: "spread" scales what q and k are made by; "near the peak" adds to the biases of q and k instead, which adds
            to all logits of a row; "outliers" is "spread" with position rows, and so tokens, of 100 times the norm.
    """
    backbone = Backbone(copy.deepcopy(module))
    size = backbone.anatomy.native_size
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if kind == "outliers":
            table = backbone.anatomy.position_table()
            assert table is not None
            table[0][[1, 6]] *= 100
        for layer, parts in enumerate(backbone.anatomy.attention):
            q, k = _two(_biases(parts.module))
            if kind == "near the peak":
                q.fill_(2)
                k.fill_(4)
            for _ in range(20):
                ratio = largest / largest_logit(backbone, images, layer)
                for part in [k] if kind == "near the peak" else [q, k, *_two(parts.weights())]:
                    part *= ratio if kind == "near the peak" else ratio**0.5
            assert abs(largest_logit(backbone, images, layer) / largest - 1) < 0.05
    return backbone.module


def largest_logit(backbone: Backbone, images: Tensor, layer: int) -> float:
    """Return the largest logit of a block, of the model's own q and k."""
    trace = backbone.trace(images, Capture(projected=[layer]))
    qkv = trace.projected_qkv(layer)
    return float((qkv.q.double() @ qkv.k.double().mT * qkv.scale).max())


def _biases(attention: nn.Module) -> list[Tensor]:
    """Of the fused projection, or of q, k and v."""
    named = dict(attention.named_parameters())
    for names in (["qkv.bias"], ["in_proj_bias"], ["q_proj.bias", "k_proj.bias", "v_proj.bias"]):
        if set(names) <= set(named):
            return [named[name] for name in names]
    raise AssertionError(f"no biases among {list(named)}")


def _two(found: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The parts of q and of k."""
    q, k, *_ = found[0].chunk(3) if len(found) == 1 else found
    return q, k
