"""Edits of the patches that are marked in a batch: their tokens, their values, their keys, the attention they get.

Patches are marked by their place on the grid, so that a block that moves tokens is edited in the right place. Each image
is edited by its own marks only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.backbones.edits import Place
from vitreg.backbones.trace import QKV
from vitreg.repair.per_image.hiding import UNSEEN
from vitreg.repair.per_image.neighbours import patches_of
from vitreg.tokens import TokenLayout

Queries = Literal["cls", "patches", "all"]
Marked = Bool[Tensor, "B P"]


def tokens_of(
    marked: Marked, layout: TokenLayout, device: torch.device
) -> tuple[Int64[Tensor, "T"], Int64[Tensor, "T"]]:
    """Return the image and the index in the sequence of each marked patch, image by image, row by row on the grid."""
    image, place = marked.nonzero(as_tuple=True)
    return image.to(device), layout.patch_index[place.cpu()].to(device)


def keys_of(marked: Marked, layout: TokenLayout, count: int, device: torch.device) -> Bool[Tensor, "B M"]:
    """Return which of `count` keys are marked patches; keys that belong to no token are none."""
    index, places = patches_of(layout, device)
    found = torch.zeros(len(marked), count, dtype=torch.bool, device=device)
    found[:, index] = marked.to(device)[:, places]
    return found


@dataclass(frozen=True)
class PutTokens:
    """Give the marked patches other tokens.

    Args:
        values: of the T marked patches, in the order of `tokens_of`.
    """

    marked: Marked
    values: Float[Tensor, "T D"]

    def __call__(self, tokens: Float[Tensor, "B N D"], place: Place) -> Float[Tensor, "B N D"]:
        """Replace them."""
        changed = tokens.clone()
        changed[tokens_of(self.marked, place.layout, tokens.device)] = self.values.to(tokens)
        return changed


@dataclass(frozen=True)
class PutRegisters:
    """Give all registers other tokens."""

    values: Float[Tensor, "B R D"]

    def __call__(self, tokens: Float[Tensor, "B N D"], place: Place) -> Float[Tensor, "B N D"]:
        """Replace them."""
        changed = tokens.clone()
        changed[:, list(place.layout.registers)] = self.values.to(tokens)
        return changed


@dataclass(frozen=True)
class PutValues:
    """Attention reads other values from the marked patches; how much it attends to them stays.

    Args:
        values: of the T marked patches, in the order of `tokens_of`.
    """

    marked: Marked
    values: Float[Tensor, "T kv_heads_d"]

    def __call__(self, qkv: QKV, place: Place) -> QKV:
        """Replace them."""
        image, token = tokens_of(self.marked, place.layout, qkv.v.device)
        changed = qkv.v.clone()
        changed[image, :, token] = self.values.to(qkv.v).unflatten(1, (qkv.v.shape[1], qkv.v.shape[3]))
        return replace(qkv, v=changed)


@dataclass(frozen=True)
class HideFrom:
    """Some queries don't see the marked patches; their attention to all others grows in proportion.

    A marked patch goes on seeing itself.

    Args:
        queries: class tokens, patches, or all tokens.
        head: hidden in this head only; None for all heads.
    """

    marked: Marked
    queries: Queries
    head: int | None = None

    def __call__(self, qkv: QKV, place: Place) -> QKV:
        """Bias the logits."""
        device, (heads, count), keys = qkv.q.device, qkv.q.shape[1:3], qkv.k.shape[2]
        hidden = keys_of(self.marked, place.layout, keys, device)[:, None, None, :]  # [B, 1, 1, M]
        blind = torch.full((count, 1), self.queries == "all", device=device)
        if self.queries != "all":
            index = patches_of(place.layout, device)[0] if self.queries == "patches" else list(place.layout.cls)
            blind[index] = True
        others = ~torch.eye(count, keys, dtype=torch.bool, device=device)
        unseen = hidden & (blind & others)  # [B, 1, N, M]
        if self.head is not None:
            only = torch.zeros(heads, 1, 1, dtype=torch.bool, device=device)
            only[self.head] = True
            unseen = unseen & only
        return qkv.with_bias(unseen.to(qkv.q.dtype) * UNSEEN)


@dataclass(frozen=True)
class Redirect:
    """The attention that the marked patches get goes elsewhere, from all queries; each still spends as much as before.

    Args:
        target: the place on the grid of the patch that gets it, one of each image; None spreads it evenly over all tokens
            that are not marked.
    """

    marked: Marked
    target: Int64[Tensor, "B"] | None = None

    def __call__(self, weights: Float[Tensor, "B heads N M"], place: Place) -> Float[Tensor, "B heads N M"]:
        """Move it."""
        device, tokens = weights.device, weights.shape[2]
        taken = keys_of(self.marked, place.layout, weights.shape[3], device)
        if self.target is None:
            gets = ~taken
            gets[:, tokens:] = False  # keys of no token
        else:
            gets = torch.zeros_like(taken)
            gets[torch.arange(len(taken), device=device), place.layout.patch_index[self.target.cpu()].to(device)] = True
        shares = gets / gets.sum(1, keepdim=True)
        moved = (weights * taken[:, None, None]).sum(-1, keepdim=True)  # [B, heads, N, 1]
        kept = weights.masked_fill(taken[:, None, None], 0.0)
        return torch.where(taken.any(1)[:, None, None, None], kept + moved * shares[:, None, None].to(kept), weights)
