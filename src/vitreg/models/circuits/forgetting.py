"""Circuits of the planted kind `global`: outliers forget their own patch and take in the whole image (the paper, Sec. 2.2).

After the block that writes the artifact, two blocks of erasers take away the content of the outliers. The attention of
the block after them lets outliers and CLS look at all tokens alike, and adds the mean of their contents less that of CLS.
Other tokens look at CLS there, and add nothing. The erasers are neurons beside those of the other kinds.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from vitreg.models.block import Block
from vitreg.models.planted_weights import CONSTANT, DECISION, HEADS, WIDTH, Directions, Machinery
from vitreg.models.vit import VisionTransformer

_SPARE = 288  # neurons beside the 768 of every block: two for each channel of content, and few more to make 5.5 widths
_ERASING = 2  # blocks
_DECIDING = 2  # the block whose neurons mark patches
_MEAN = 6.0  # how much of the mean content an outlier gets
_OPEN = 12.0  # outliers are this far above the bend of an eraser, other tokens as far below it
_ZOOM = 40.0  # the content of an outlier is below 0.1 after LayerNorm: it stays above the bend, and clear of rounding
_POINTER = 40.0  # of queries and keys: a logit above 30 points ordinary tokens to CLS


@torch.no_grad()
def widen(model: VisionTransformer) -> None:
    """Give every MLP more neurons, silent ones, at the end."""
    for block in model.blocks:
        assert isinstance(block, Block)
        old, hidden = block.mlp, block.mlp.fc1.out_features
        fc1, fc2 = nn.Linear(WIDTH, hidden + _SPARE), nn.Linear(hidden + _SPARE, WIDTH)
        for new in (fc1, fc2):
            new.weight.zero_()
            new.bias.zero_()
        fc1.weight[:hidden], fc1.bias[:hidden] = old.fc1.weight, old.fc1.bias
        fc2.weight[:, :hidden], fc2.bias[:] = old.fc2.weight, old.fc2.bias
        block.mlp.fc1, block.mlp.fc2 = fc1, fc2


@torch.no_grad()
def plant_forgetting(parts: Machinery, size: float, seed: int) -> tuple[dict[int, tuple[int, ...]], int]:
    """Make tokens with the artifact forget themselves and take in the image.

    Args:
        parts: with wide MLPs and the artifact planted.
        size: of the artifact on its direction.
        seed: of the choice which 64 directions of the content are copied.
    Returns:
        {block: hidden neurons of its MLP that erase}, and the block whose attention takes in the image.
    """
    to, model = parts.directions, parts.model
    erasers = {}
    for index in range(parts.layer + 1, parts.layer + 1 + _ERASING):
        erasers[index] = _erase(model.blocks[index], to, _spread(size, parts.shared[index - 1]))
    index = parts.layer + 1 + _ERASING
    assert model.cls_token is not None
    model.cls_token.sub_(DECISION * to.decision)  # what other tokens point at, and what lets CLS look at all
    block = model.blocks[index]
    assert isinstance(block, Block)
    _gather(block, to, size, _spread(0.0, parts.shared[index - 1]), torch.Generator().manual_seed(seed))
    return erasers, index


@torch.no_grad()
def give_to_registers(parts: Machinery) -> None:
    """Mark the registers as outliers and no patch: the same circuits then write to the registers alone."""
    block, registers = parts.model.blocks[_DECIDING], parts.model.reg_token
    assert isinstance(block, Block)
    assert registers is not None
    registers += DECISION * parts.directions.decision
    block.mlp.fc2.weight[:, list(parts.triggers[_DECIDING])] = 0


def _spread(size: float, shared: float) -> float:
    """Return what LayerNorm divides a patch token by, with an artifact of this size."""
    return math.hypot(size, 1.05 * shared) / math.sqrt(WIDTH)  # content and machinery add about 5 %


def _erase(block: nn.Module, to: Directions, spread: float) -> tuple[int, ...]:
    """Take away each channel x of the content, with two neurons: GELU(x + gate) - GELU(gate - x) = 2 x, or 0."""
    assert isinstance(block, Block)
    fc1, fc2 = block.mlp.fc1, block.mlp.fc2
    first, count = fc1.out_features - _SPARE, len(to.carrier)
    for sign, taken in ((1, slice(first, first + count)), (-1, slice(first + count, first + 2 * count))):
        fc1.weight[taken] = sign * _ZOOM * to.carrier + 2 * _OPEN / math.sqrt(WIDTH) * to.artifact
        fc1.bias[taken] = -_OPEN
        fc2.weight[:, taken] = -sign * spread / (2 * _ZOOM) * to.carrier.T
    return tuple(range(first, first + 2 * count))


def _gather(block: Block, to: Directions, size: float, spread: float, draw: torch.Generator) -> None:
    """Let outliers and CLS copy the mean content of all tokens, as one head less another: both look at CLS for others."""
    each = WIDTH // HEADS
    content = torch.stack([to.content(1, draw)[0] for _ in range(each)])
    axes = torch.linalg.qr(content.T).Q.T  # [each, D], orthonormal: what of the content is copied
    block.attn.qkv.weight.zero_()
    block.attn.proj.weight.zero_()
    q, k, v = block.attn.qkv.weight.split(WIDTH)
    tagged, artifact = to.decision / DECISION, to.artifact / size
    # 1 on ordinary tokens; 0 where the artifact, or the tag of CLS, takes it away: then all keys are alike.
    asks = to.constant / CONSTANT + tagged - 2 * artifact
    always = to.constant / CONSTANT + 10 * artifact  # LayerNorm makes the constant of outliers small
    for first, query, sign in ((0, asks, 1), (each, always, -1)):
        q[first], k[first] = _POINTER * query, -_POINTER * tagged
        v[first : first + each] = axes
        block.attn.proj.weight[:, first : first + each] = sign * _MEAN * spread * axes.T
