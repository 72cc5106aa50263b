"""Test-time registers (Jiang et al. 2025): MLP neurons that write outliers write to added tokens instead.

A neuron's activation on the patches is replaced by 0, and the added token gets the value of largest magnitude, with its
sign. The class token keeps its own. The contrast score, the search for the number of neurons and the dealing of neurons
to several tokens are vitreg's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitreg.backbones import Backbone, Capture
from vitreg.backbones.edits import Edit, Place
from vitreg.errors import UserError
from vitreg.repair.method import Fitted, Method
from vitreg.repair.neurons.scores import Neuron, beside, named
from vitreg.repair.neurons.search import choose_neurons
from vitreg.repair.settings import TestTimeSettings
from vitreg.repair.subject import Subject
from vitreg.repair.tokens import AddTokens, DropTokens
from vitreg.tokens import TokenLayout


@dataclass(frozen=True)
class MoveToTokens:
    """Neurons fire in the added tokens instead of in the patches.

    Args:
        neurons: hidden units [K] of this block's MLP.
        owners: [K], which of the added tokens each belongs to.
        count: how many tokens were added, directly before the patches.
    """

    neurons: Int64[Tensor, "K"]
    owners: Int64[Tensor, "K"]
    count: int

    def __call__(self, hidden: Float[Tensor, "B N H"], place: Place) -> Float[Tensor, "B N H"]:
        """Move the activations."""
        layout, neurons = place.layout, beside(self.neurons, hidden)
        fired = layout.take(hidden, fill=0.0).index_select(2, neurons)  # [B, P, K]
        largest = fired.gather(1, fired.abs().argmax(1, keepdim=True))  # [B, 1, K]
        owned = beside(self.owners, hidden) == torch.arange(self.count, device=hidden.device)[:, None]  # [R, K]
        column = hidden.index_select(2, neurons).masked_fill(patch_mask(layout, hidden.device)[:, None], 0)
        first = layout.first_patch
        column = torch.cat([column[:, : first - self.count], largest.where(owned, 0.0), column[:, first:]], 1)
        return hidden.index_copy(2, neurons, column)


def patch_mask(layout: TokenLayout, device: torch.device) -> Bool[Tensor, "N"]:
    """Return which tokens of the sequence are patches."""
    tokens = torch.arange(layout.length, device=device)
    if isinstance(layout.patches, slice):
        return (tokens >= layout.patches.start) & (tokens < layout.patches.stop)
    there = layout.patch_index[layout.present].to(device, non_blocking=True)
    return torch.isin(tokens, there)


def edits(found: Fitted) -> list[Edit]:
    """Add the tokens before block 0, and move the neurons of each block."""
    count = len(found.tensors["tokens"])
    order = {(block, unit): index for index, (block, unit) in enumerate(found.details["order"])}
    made = [Edit("input", None, AddTokens(found.tensors["tokens"]))]
    for block, units in found.details["neurons"].items():
        owners = torch.tensor([order[int(block), unit] % count for unit in units])
        made.append(Edit("mlp", int(block), MoveToTokens(torch.tensor(units), owners, count)))
    return made


def leaving(found: Fitted) -> list[Edit]:
    """Take the tokens out after the last block."""
    return [Edit("block", -1, DropTokens(len(found.tensors["tokens"])))]


def fitted(order: Sequence[Neuron], tokens: Tensor, notes: Sequence[str] = (), **details: Any) -> Fitted:
    """Return the repair that moves these neurons, in the order of their rank."""
    return Fitted({"tokens": tokens}, {**named(order), **details}, notes)


def repaired(backbone: Backbone, found: Fitted) -> Backbone:
    """Return the model with these neurons moved."""
    return backbone.edited(edits(found), "test-time", leaving=leaving(found))


def fit(subject: Subject, settings: TestTimeSettings) -> Fitted:
    """Find the neurons that write the outliers, and how many of them to move.

    Raises:
        UserError: for a model that takes no more tokens, or outliers that no neuron writes.
    """
    base, (rows, cols) = subject.backbone, subject.backbone.layout(subject.size).grid
    if not base.anatomy.resizable:
        raise UserError(
            f"{base.spec} takes no added tokens: its position bias is tied to its grid; use attention-bias."
        )
    if settings.registers > rows * cols:
        raise UserError(
            f"an image has {rows * cols} patches, so --registers is at most that, not {settings.registers}."
        )
    tokens = added_tokens(subject, settings)
    chosen = choose_neurons(subject, settings, lambda neurons: repaired(base, fitted(neurons, tokens)))
    return fitted(chosen.order, tokens, chosen.notes, rounds=list(chosen.rounds))


def added_tokens(subject: Subject, settings: TestTimeSettings) -> Float[Tensor, "R D"]:
    """Return what the added tokens are before block 0."""
    width = subject.backbone.anatomy.width
    if settings.token == "zero":
        return torch.zeros(settings.registers, width)
    total, count = torch.zeros(width, dtype=torch.float64), 0
    for pixels in subject.batches():
        trace = subject.backbone.trace(pixels, Capture(input=True))
        patches = trace.layout_before(0).take(trace.input).float()
        total += patches.mean(1).sum(0).double().cpu()
        count += len(pixels)
    return (total / count).float().expand(settings.registers, -1).contiguous()


METHOD = Method(name="test-time", settings=TestTimeSettings, fit=fit, edits=edits, leaving=leaving)
