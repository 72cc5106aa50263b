"""Outliers marked after one block, and hidden from attention in the blocks that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.backbones.edits import Place
from vitreg.backbones.trace import QKV
from vitreg.repair.per_image.detect import Detector
from vitreg.repair.per_image.neighbours import patches_of

MARKED = "marked"  # in the state of a forward: bool [B, P], P places of the grid
UNSEEN = -1e4  # a logit whose weight is 0 in any dtype, and still a number where a query has no other key


@dataclass(frozen=True)
class Mark:
    """Remembers which patches are outliers; changes nothing."""

    detector: Detector

    def __call__(self, tokens: Float[Tensor, "B N D"], place: Place) -> Float[Tensor, "B N D"]:
        """Mark them."""
        place.state[MARKED] = self.detector(tokens, place.layout)
        return tokens


@dataclass(frozen=True)
class HideKeys:
    """Marked patches are no keys.

    Args:
        queries: "patches": other patches don't see them, but they themselves, class tokens (a distillation token is one)
            and registers do; "all": nothing sees them.
    """

    queries: Literal["patches", "all"]

    def __call__(self, qkv: QKV, place: Place) -> QKV:
        """Bias their logits."""
        marked: Bool[Tensor, "B P"] = place.state[MARKED]
        index, places = patches_of(place.layout, marked.device)
        hidden = marked.new_zeros(marked.shape[0], qkv.k.shape[2])  # not len: a graph is for any batch
        hidden[:, index] = marked[:, places]
        unseen = hidden[:, None, None, :]  # [B, 1, 1, M]
        if self.queries == "patches":
            blind = hidden.new_zeros(qkv.q.shape[2], 1)
            blind[index] = True
            others = ~torch.eye(qkv.q.shape[2], qkv.k.shape[2], dtype=torch.bool, device=marked.device)
            unseen = unseen & (blind & others)
        return qkv.with_bias(unseen.to(qkv.q.dtype) * UNSEEN)
