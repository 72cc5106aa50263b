"""Register queries as slots, against the loop of their docstring, and read like any attention."""

import math

import pytest
import torch
import torch.nn.functional as F

from vitreg.backbones import Backbone, Capture
from vitreg.models.slots import EPS, attend_as_slots
from vitreg.models.vit import VisionTransformer

SLOTS = (1, 4)


def loop(q, k, v, seen, slots):
    """One query, one key, one head at a time."""
    mixed = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            logit = [
                [float(q[b, h, i] @ k[b, h, j]) / math.sqrt(q.shape[-1]) for j in range(k.shape[2])]
                for i in range(q.shape[2])
            ]
            keys = [j for j in range(k.shape[2]) if seen is None or bool(seen[b, 0, 0, j])]
            for i in range(q.shape[2]):
                if slots[0] <= i < slots[1]:
                    share = {j: math.exp(logit[i][j]) / sum(math.exp(logit[r][j]) for r in range(*slots)) for j in keys}
                    whole = sum(share.values()) + EPS
                else:
                    share = {j: math.exp(logit[i][j]) for j in keys}
                    whole = sum(share.values())
                for j in keys:
                    mixed[b, h, i] += share[j] / whole * v[b, h, j]
    return mixed


@pytest.mark.parametrize("hidden", [False, True])
def test_the_naive_loop(hidden):
    draw = torch.Generator().manual_seed(0)
    q, k, v = (2 * torch.randn(2, 2, 9, 4, generator=draw, dtype=torch.float64) for _ in range(3))
    seen = None
    if hidden:
        seen = torch.ones(2, 1, 1, 9, dtype=torch.bool)
        seen[0, 0, 0, [2, 7]] = False
    found = attend_as_slots(q, k, v, seen, SLOTS)
    torch.testing.assert_close(found, loop(q, k, v, seen, SLOTS), rtol=1e-12, atol=1e-12)
    others = [0, *range(4, 9)]
    torch.testing.assert_close(
        found[:, :, others], F.scaled_dot_product_attention(q, k, v, attn_mask=seen)[:, :, others]
    )


def test_a_register_that_wins_no_key_is_damped_not_amplified():
    """The sum over keys is far below 1e-8: the update goes to zero, as 1e-8 in the denominator has it."""
    q = torch.zeros(1, 1, 5, 2, dtype=torch.float64)
    k, v = torch.ones(1, 1, 5, 2, dtype=torch.float64), torch.ones(1, 1, 5, 2, dtype=torch.float64)
    q[0, 0, 1] = -40.0
    found = attend_as_slots(q, k, v, None, SLOTS)
    torch.testing.assert_close(found, loop(q, k, v, None, SLOTS), rtol=1e-9, atol=0)
    assert float(found[0, 0, 1, 0]) < 1e-9


def test_gradients_and_stacks_of_crops():
    """Crops of two sizes together give what each gives alone, also in the gradient."""
    model = VisionTransformer(32, 8, 16, 2, 2, registers=3, register_init=0.5, register_attention="slots").double()
    large, small = torch.randn(2, 3, 32, 32).double(), torch.randn(2, 3, 16, 16).double()
    together = model.forward_stacks([large, small])
    for found, images in zip(together, (large, small), strict=True):
        torch.testing.assert_close(found, model.forward_features(images))
    sum(each.square().sum() for each in together).backward()
    assert float(model.reg_token.grad.abs().sum()) > 0
    assert float(model.blocks[0].attn.qkv.weight.grad.abs().sum()) > 0


def test_the_attention_of_registers_is_read_as_it_is():
    """The rows of registers are their shares of the keys; every other row is that of the plain model."""
    arguments = {"registers": 3, "register_init": 0.5}
    slots = VisionTransformer(32, 8, 16, 1, 2, **arguments, register_attention="slots")
    plain = VisionTransformer(32, 8, 16, 1, 2, **arguments)
    plain.load_state_dict(slots.state_dict())
    images = torch.randn(1, 3, 32, 32)
    everyone = list(range(20))
    read, usual = (
        Backbone(each.eval()).trace(images, Capture(rows=([0], everyone))).attention(0, everyone)
        for each in (slots, plain)
    )
    torch.testing.assert_close(read[:, :, [0, *range(4, 20)]], usual[:, :, [0, *range(4, 20)]])
    with torch.no_grad():
        x = slots.blocks[0].norm1(slots.embed(images))
        q, k, _ = slots.blocks[0].attn.qkv(x).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        share = (q[:, :, 1:4] @ k.transpose(-2, -1) * 8**-0.5).softmax(2)
    torch.testing.assert_close(read[:, :, 1:4], share / share.sum(-1, keepdim=True))
    assert Backbone(slots).attention_status().readable


def test_one_register_is_no_competition():
    """Its share of every key is 1: it averages all tokens, whatever they are."""
    q, k, v = (torch.randn(1, 1, 6, 4, dtype=torch.float64) for _ in range(3))
    found = attend_as_slots(q, k, v, None, (1, 2))
    torch.testing.assert_close(found[0, 0, 1], v[0, 0].mean(0), rtol=1e-7, atol=0)
