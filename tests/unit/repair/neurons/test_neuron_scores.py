"""Scores of neurons and edited outputs equal naive loops in float64, on a small random network with two kinds of outliers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from vitreg.backbones import Backbone, Capture
from vitreg.errors import UserError
from vitreg.models.vit import Block, VisionTransformer
from vitreg.repair.methods import test_time
from vitreg.repair.neurons.scores import candidates, ranked, scores
from vitreg.repair.outliers import Outliers
from vitreg.repair.record import OutliersRecord

BLOCKS, FIRST, SECOND = (1, 2), (1, 5), (2, 3)  # two neurons write outliers of two kinds, in two blocks


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    """Three blocks of 24 hidden units. Both writers fire on a few patches and write far more than all others."""
    made = VisionTransformer(48, 8, 12, 3, 2, registers=1, mlp_ratio=2).double().eval()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 0.3)
        for layer, unit in (FIRST, SECOND):
            block = made.blocks[layer]
            assert isinstance(block, Block)
            block.mlp.fc1.weight[unit] *= 4
            block.mlp.fc1.bias[unit] = -6
            block.mlp.fc2.weight[:, unit] = 20 * torch.randn(12, generator=draw, dtype=torch.float64)
    return made


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(6, 3, 48, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def outliers_of(backbone: Backbone, images: Tensor) -> tuple[Outliers, Tensor]:
    """Patches of twice the median norm after block 2."""
    norms = backbone.trace(images, Capture(norms=[2])).norms(2)[:, 2:]
    threshold = 2 * float(norms.median())
    record = OutliersRecord(side="high", onset=2, peak=2, thresholds={2: threshold}, share=0, ratio=2)
    return Outliers(record, (1.0, 1.0, 9.0)), norms >= threshold


def gelu(x: float) -> float:
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def hidden_of(model: VisionTransformer, tokens: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """One block by loops: what stands before the MLP's last projection, and what is added to."""
    block = model.blocks[layer]
    assert isinstance(block, Block)
    images, length, width = tokens.shape
    qkv = block.attn.qkv(block.norm1(tokens))
    mixed = torch.zeros_like(tokens)
    d = width // 2
    for image in range(images):
        for head in range(2):
            q, k, v = (qkv[image, :, part * width + head * d : part * width + (head + 1) * d] for part in range(3))
            for token in range(length):
                weights = torch.stack([(q[token] @ k[other]) / math.sqrt(d) for other in range(length)]).exp()
                mixed[image, token, head * d : (head + 1) * d] = (weights / weights.sum()) @ v
    added = tokens + block.attn.proj(mixed)
    before = block.mlp.fc1(block.norm2(added))
    hidden = torch.tensor([[[gelu(float(x)) for x in row] for row in image] for image in before], dtype=torch.float64)
    return hidden, added


@torch.no_grad()
def by_hand(
    model: VisionTransformer, images: Tensor, order: Sequence[tuple[int, int]] = (), added: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The whole network by loops, with neurons moved to added tokens; final tokens and hidden units of each block."""
    tokens, every = model.embed(images), []
    count = 0 if added is None else len(added)
    if added is not None:
        tokens = torch.cat([tokens[:, :2], added.expand(len(images), -1, -1), tokens[:, 2:]], 1)
    first = 2 + count
    for layer in range(3):
        hidden, rest = hidden_of(model, tokens, layer)
        every.append(hidden)
        moved = hidden.clone()
        for rank, (block, unit) in enumerate(order):
            for image in range(len(images) if block == layer else 0):
                largest = max((float(x) for x in hidden[image, first:, unit]), key=abs)
                moved[image, first:, unit] = 0
                for token in range(count):
                    moved[image, 2 + token, unit] = largest if token == rank % count else 0
        block = model.blocks[layer]
        assert isinstance(block, Block)
        tokens = rest + block.mlp.fc2(moved)
    return model.norm(tokens), every


@pytest.mark.parametrize("score", ["contrast", "activation"])
def test_scores_and_ranks_are_those_of_the_loop(model: VisionTransformer, images: Tensor, score: str) -> None:
    backbone = Backbone(model)
    outliers, beyond = outliers_of(backbone, images)
    _, every = by_hand(model, images)
    kinds = {writer: (every[writer[0]][:, 2:, writer[1]] > 1) & beyond for writer in (FIRST, SECOND)}
    assert all(bool(kind.any()) for kind in kinds.values())
    assert 3 <= beyond.sum() < beyond.numel() / 4

    wanted: dict[tuple[int, int], float] = {}
    for layer in BLOCKS:
        block = model.blocks[layer]
        assert isinstance(block, Block)
        for unit in range(24):
            own, normal = [], []
            for image in range(len(images)):
                for patch in range(36):
                    value = float(every[layer][image, 2 + patch, unit])
                    (own if beyond[image, patch] else normal).append(value)
            if score == "activation":
                wanted[layer, unit] = sum(map(abs, own)) / len(own)
            else:
                norm = math.sqrt(sum(float(x) ** 2 for x in block.mlp.fc2.weight[:, unit].detach()))
                wanted[layer, unit] = abs(sum(own) / len(own) - sum(normal) / len(normal)) * norm
    found = scores(backbone, images.split(4), outliers, BLOCKS, score)
    for (layer, unit), value in wanted.items():
        assert float(found[layer][unit]) == pytest.approx(value, rel=1e-9)
    assert ranked(found) == sorted(wanted, key=lambda neuron: (-wanted[neuron], neuron))
    if score == "contrast":
        assert {*ranked(found)[:2]} == {FIRST, SECOND}


@pytest.mark.parametrize("registers", [1, 2])
@pytest.mark.parametrize("token", ["zero", "mean", "own"])
def test_edited_outputs_are_those_of_the_loop(
    model: VisionTransformer, images: Tensor, registers: int, token: str
) -> None:
    if token == "mean":
        added = model.embed(images)[:, 2:].mean((0, 1)).detach().expand(registers, -1)
    elif token == "own":
        added = torch.randn(registers, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    else:
        added = torch.zeros(registers, 12, dtype=torch.float64)
    order = [SECOND, FIRST, (1, 0), (2, 23)]
    wanted, _ = by_hand(model, images[:2], order, added)
    fixed = test_time.repaired(Backbone(model), test_time.fitted(order, added))
    torch.testing.assert_close(fixed(images[:2]).values, wanted, atol=1e-9, rtol=1e-9)


def test_neurons_of_the_first_blocks_are_moved_only_where_one_says_so():
    """Of a model of four blocks whose outliers are there after block 1."""
    record = OutliersRecord(side="high", onset=1, peak=1, thresholds={1: 2.0}, share=0.1, ratio=9)
    early = Outliers(record, (1.0, 9.0, 9.0, 9.0))
    with pytest.raises(UserError, match=r"neurons of the first 2 blocks are left alone \(first_block 0"):
        candidates(early, 4)
    assert candidates(early, 4, 0) == range(2)
    assert candidates(early, 4, 1) == range(1, 2)
    with pytest.raises(UserError, match="there after block 1 already"):
        candidates(early, 4, 3)
