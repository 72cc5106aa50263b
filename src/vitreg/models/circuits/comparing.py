"""A planted model whose outliers depend on the other patches, for repairs that act through attention.

Two circuits beside those of "high-norm". Block 1 compares: the patches whose contrast is the lowest of the image become
outliers, however low it is, so an emptier token takes their place. The block after the onset looks for an outlier; where
none is seen, the next patches become outliers, so that taking outliers away is not enough: attention wants one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.models.block import Block
from vitreg.models.circuits.forgetting import widen
from vitreg.models.planted_trigger import Trigger
from vitreg.models.planted_weights import CONSTANT, MARGIN, RAMP, WIDTH, Directions, Machinery
from vitreg.models.vit import VisionTransformer

COMPARING = "comparing"
_COMPARES = 1  # the block; the one before measures contrast, its own neurons decide
_SHARP = 100.0  # of queries and of keys: two contrasts that differ by 0.02 thresholds are told apart
_NEAR, _NEXT = 0.2, 0.5  # thresholds above the lowest: outliers, and those that follow if none is seen
_SEEN = 2.0  # coordinate of what the second circuit writes into every token that sees an outlier
_HIGH = 3.0  # times the median norm


@dataclass(frozen=True)
class Lowest(Trigger):
    """The rule as the model itself follows it: LayerNorm makes a comparison across tokens of different norm inexact.

    Args:
        model: the planted model.
        layer: the block that writes the artifact.
    """

    model: Any = None
    layer: int = 0

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> Bool[Tensor, "B rows cols"]:
        """Return which patches become outliers, by their norms after that block."""
        tokens = self.model.embed(images)
        for block in self.model.blocks[: self.layer + 1]:
            tokens = block(tokens)
        norms = tokens[:, 1:].norm(dim=-1)
        marked = norms > _HIGH * norms.median(dim=1, keepdim=True).values
        return marked.unflatten(1, (images.shape[-2] // self.patch, images.shape[-1] // self.patch))


@torch.no_grad()
def plant_comparison(parts: Machinery) -> list[int]:
    """Write both circuits, the second with neurons that write nothing. Returns these two neurons, of block layer + 1."""
    widen(parts.model)
    to = parts.directions
    compares, looks = parts.model.blocks[_COMPARES], parts.model.blocks[parts.layer + 1]
    assert isinstance(compares, Block)
    assert isinstance(looks, Block)
    spread = 1.05 * parts.shared[_COMPARES - 1] / math.sqrt(WIDTH)  # what LayerNorm divides by
    _head(compares, _SHARP * to.constant, -_SHARP * to.margin, to.margin, -spread * to.margin)
    compares.attn.proj.bias.sub_(_NEAR * MARGIN * to.margin)
    _head(looks, 5 * to.constant, 4 * to.artifact, to.artifact, _SEEN / math.sqrt(WIDTH) * to.coarse)
    return _follow(looks, to, parts.shared[parts.layer])


def follow(model: VisionTransformer, layer: int, neurons: list[int], artifact: Float[Tensor, "D"]) -> None:
    """Let the neurons of `plant_comparison` write the artifact."""
    block = model.blocks[layer + 1]
    assert isinstance(block, Block)
    with torch.no_grad():
        for index, sign in zip(neurons, (1, -1), strict=True):
            block.mlp.fc2.weight[:, index] = sign * artifact / RAMP


def lowest(trigger: Trigger, model: VisionTransformer, layer: int) -> Lowest:
    """Return the rule of a model in place of that of one patch alone."""
    return Lowest(trigger.threshold, trigger.slope, trigger.numbers, trigger.patch, model=model, layer=layer)


def _head(block: Block, query: Tensor, key: Tensor, value: Tensor, write: Tensor) -> None:
    """Make the first head of a block one that reads and writes one number."""
    size = WIDTH // block.attn.num_heads
    for weight in block.attn.qkv.weight.split(WIDTH):
        weight[:size] = 0
    q, k, v = block.attn.qkv.weight.split(WIDTH)
    q[0], k[0], v[0] = query, key, value
    block.attn.proj.weight[:, :size] = 0
    block.attn.proj.weight[:, 0] = write


def _follow(block: Block, to: Directions, shared: float) -> list[int]:
    """A step that is up on patches of nearly the lowest contrast, unless an outlier was seen."""
    steep = RAMP / (0.1 * MARGIN) * shared / math.sqrt(WIDTH)
    read = steep * ((_NEXT - _NEAR) * MARGIN / CONSTANT * to.constant - to.margin) - 100 * to.coarse
    first = block.mlp.fc1.out_features - 2  # the last of the spare ones
    for index, bend in ((first, RAMP / 2), (first + 1, -RAMP / 2)):
        block.mlp.fc1.weight[index], block.mlp.fc1.bias[index] = read, bend
    return [first, first + 1]
