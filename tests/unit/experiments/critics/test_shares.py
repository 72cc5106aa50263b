"""Where attention goes, against a plain loop; and images in any batches give the same."""

import dataclasses

import numpy as np
import pytest
import torch

import vitreg
from vitreg.errors import UserError
from vitreg.experiments.critics.shares import shares_of
from vitreg.models.vit import VisionTransformer

TIMES = 1.1  # the attention of random weights is even


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = VisionTransformer(image_size=64, patch=16, width=32, depth=2, heads=2, registers=3, register_init=1.0).eval()
    with torch.no_grad():
        made.blocks[1].attn.qkv.weight.mul_(30)
    return made


def naive(model, pixels):
    """Shares of one image in the last block, head by head and query by query."""
    with torch.no_grad():
        tokens = model.embed(pixels[None])
        tokens = model.blocks[0](tokens)
        block = model.blocks[1]
        q, k, _ = block.attn.qkv(block.norm1(tokens))[0].unflatten(-1, (3, 2, 16)).permute(1, 2, 0, 3)
        attention = (q @ k.transpose(1, 2) / 4).softmax(-1)  # [heads, N, N]
    queries = [0, *range(4, 20)]
    received = [np.mean([float(attention[h, i, j]) for h in range(2) for i in queries]) for j in range(20)]
    return sum(each for each in received[4:] if each > TIMES / 20), sum(received[1:4])


def test_shares_are_those_of_a_plain_loop(model):
    images = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = shares_of(vitreg.load(model, precision="fp32", device="cpu"), images, TIMES, {"batch_size": 4})
    wanted = [naive(model, each) for each in images]
    assert max(found["on_sinks"]) > 0
    for place, name in enumerate(("on_sinks", "on_registers")):
        assert sorted(found[name]) == pytest.approx(sorted(each[place] for each in wanted), abs=1e-5)


def test_a_model_whose_attention_cannot_be_read_says_so(model, monkeypatch):
    backbone = vitreg.load(model, precision="fp32", device="cpu")
    hidden = dataclasses.replace(backbone.attention_status(), source="none", reason="a kernel of its own")
    monkeypatch.setattr(type(backbone), "attention_status", lambda self: hidden)
    with pytest.raises(UserError, match="cannot be read: a kernel of its own"):
        shares_of(backbone, torch.randn(4, 3, 64, 64), TIMES, {})
